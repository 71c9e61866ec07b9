"""int8 in float arithmetic, which can be switched on and off layer by layer and can be trained through.

The graph is annotated by the quantizer that ExecuTorch and Core ML get (``converters.quantize.PictureQuantizer``), and
calibrated once. Every observer then gives way to a rounding of values to the grid it found. With all of them on, the
pictures are those of the quantized graph; with some, they show what these alone cost.

Vocabulary: an *operation* is a node that computes (convolution, add, mul, upsampling); a *layer* is a module, named by
its path, with all operations in it; a *site* is a place where a tensor is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from converters.quantize import PictureQuantizer, activation_limits, is_moving, layer_paths
from converters.ranges import RangeMethod
from sdk.errors import UsageError

aten = torch.ops.aten

_OPERATIONS = {aten.conv2d.default, aten.add.Tensor, aten.mul.Tensor, aten.upsample_bilinear2d.vec}


class ActivationGrid(nn.Module):
    """Rounds values to a fixed 8-bit grid and clips them to its ends; the gradient passes where nothing is clipped.

    Attributes:
        on: off, values pass as they are.
    """

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.scale, self.zero_point, self.on = scale, zero_point, True

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, -128, 127) if self.on else x


class WeightGrid(nn.Module):
    """Rounds weights to 255 symmetric steps an output channel, which follow the weights as they change.

    Attributes:
        on: off, weights pass as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on = True

    def forward(self, weight: Tensor) -> Tensor:
        """``O x I x K x K``."""
        if not self.on:
            return weight
        scale = weight.detach().abs().amax(tuple(range(1, weight.ndim))).clamp(min=1e-12) / 127
        zero = torch.zeros(len(scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """A node that computes.

    Attributes:
        paths: the modules it is in, outermost first.
    """

    paths: tuple[str, ...]

    def within(self, layers: Collection[str]) -> bool:
        """Whether it is in one of these modules, or in a part of one."""
        return any(path in layers for path in self.paths)


class Simulation:
    """A calibrated graph whose int8 can be switched; made by ``simulate``.

    Attributes:
        module: same arguments and result as the graph it was made from. Its parameters have the graph's names.
        operations: in the order they run.
    """

    def __init__(self, module: fx.GraphModule, operations: dict[fx.Node, Operation]) -> None:
        self.module = module
        self.operations = tuple(operations.values())
        self._sites = list(_sites(module, operations))

    @property
    def layers(self) -> tuple[str, ...]:
        """Modules that compute, outermost first; of modules with the same operations the outermost alone.

        The whole graph is not among them.
        """
        within: dict[frozenset[Operation], str] = {}
        paths = dict.fromkeys(path for operation in self.operations for path in operation.paths)
        for path in paths:
            within.setdefault(frozenset(o for o in self.operations if path in o.paths), path)
        return tuple(path for inside, path in within.items() if len(inside) < len(self.operations))

    def touch(self, one: str, other: str) -> bool:
        """Whether a tensor lies between two layers, so that only both of them together can leave it in float."""
        return any(
            any(operation.within([one]) for operation in around)
            and any(operation.within([other]) for operation in around)
            for _, around in self._sites
        )

    def keep_float(self, layers: Collection[str]) -> None:
        """Quantizes everything but these layers: a tensor between two of them is not rounded."""
        self._switch(lambda operation: not operation.within(layers))

    def quantize_only(self, layers: Collection[str]) -> None:
        """Quantizes these layers, what they read and what they write, and nothing else."""
        self._switch(lambda operation: operation.within(layers))

    def _switch(self, quantized: Callable[[Operation], bool]) -> None:
        for grid, around in self._sites:
            grid.on = any(quantized(operation) for operation in around)


def simulate(
    module: nn.Module,
    samples: Iterable[tuple[Tensor, ...]],
    *,
    ranges: RangeMethod = RangeMethod.LEAST_SQUARES,
) -> Simulation:
    """Calibrates a module for int8, all of it switched on.

    Args:
        module: in eval mode; its inputs lie in [0, 1].
        samples: its arguments, contiguous and of one shape; at least one.
        ranges: as for ``converters.quantize.quantize``.

    Raises:
        UsageError: when there are no samples.
    """
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    prepared: fx.GraphModule | None = None
    operations: dict[str, Operation] = {}
    with torch.no_grad():
        for inputs in samples:
            if prepared is None:
                exported = torch.export.export(module, inputs).module()
                assert isinstance(exported, fx.GraphModule)
                operations = {
                    node.name: Operation(paths=layer_paths(node))
                    for node in exported.graph.nodes
                    if node.target in _OPERATIONS
                }
                prepared = prepare_pt2e(exported, PictureQuantizer(ranges=ranges))
            prepared(*inputs)
        if prepared is None:
            raise UsageError("int8 ranges need calibration samples and got none: give photos.")
        for node in list(prepared.graph.nodes):
            observer = getattr(prepared, str(node.target)) if node.op == "call_module" else None
            if observer is None or not hasattr(observer, "calculate_qparams"):
                continue
            # One a reader, because a tensor from a float layer is rounded only for the readers that are int8.
            for index, user in enumerate(list(node.users)):
                if node.args[0].op == "get_attr":
                    grid: nn.Module = WeightGrid()
                else:
                    scale, zero_point = observer.calculate_qparams()
                    grid = ActivationGrid(float(scale), int(zero_point))
                name = f"grid_{node.name}_{index}"
                prepared.add_submodule(name, grid)
                with prepared.graph.inserting_after(node):
                    user.replace_input_with(node, prepared.graph.call_module(name, node.args))
            prepared.graph.erase_node(node)
    prepared.delete_all_unused_submodules()
    prepared.recompile()
    return Simulation(prepared, {n: operations[n.name] for n in prepared.graph.nodes if n.name in operations})


def _sites(
    module: fx.GraphModule, operations: dict[fx.Node, Operation]
) -> Iterator[tuple[ActivationGrid | WeightGrid, list[Operation]]]:
    """Every grid with the operations that write and read its tensor, seen through what only moves or clips values."""
    grids: dict[fx.Node, ActivationGrid | WeightGrid] = {}
    for node in module.graph.nodes:
        made = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(made, ActivationGrid | WeightGrid):
            grids[node] = made

    def passes(node: fx.Node) -> bool:
        return node in grids or activation_limits(node) is not None or (node not in operations and is_moving(node))

    def readers(node: fx.Node) -> Iterator[Operation]:
        for user in node.users:
            if user in operations:
                yield operations[user]
            elif passes(user):
                yield from readers(user)

    for node, grid in grids.items():
        source = node.all_input_nodes[0]
        while passes(source):
            source = source.all_input_nodes[0]
        writer = [operations[source]] if source in operations else []
        # The last grid is the picture's: it belongs to who writes it.
        yield grid, [*writer, *readers(node)]
