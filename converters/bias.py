"""Bias correction: what int8 shifts a channel by on average, taken out of its convolution's bias.

Rounding and clipping are not symmetric: the mean of a channel moves, and whole areas of a picture change their tone.
After Nagel et al. 2019, arXiv:1906.04721, section 4.2, in the empirical form of its appendix D: the mean of each
convolution's result on calibration photos, in float and with everything before it in int8, convolution after
convolution, so that what an earlier correction has mended is not mended twice. The correction ends in the float graph
(a bias is kept in 32 bits by every target and costs nothing), so every target gets the same.

Only ``converters.ablation`` uses it: after equalization and least-squares ranges it is worth nothing here
(``docs/int8.md``), so no target asks for it. It stays so that the ablation can show that again for every new network.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, fx

from converters.calibration import CalibrationSet
from converters.graph import DeployGraph
from converters.quantize import quantize_module
from converters.ranges import RangeMethod

aten = torch.ops.aten

#: Photo x style pairs that are looked at: a mean over pictures needs fewer than a range does.
MAX_PAIRS = 40


def correct_bias(
    graph: DeployGraph, calibration: CalibrationSet, *, ranges: RangeMethod = RangeMethod.LEAST_SQUARES
) -> DeployGraph:
    """Copies a graph and corrects the biases of its convolutions for int8.

    The copy is no longer the same function in float: it is meant to be quantized with these ranges. Convolutions
    without a bias (the lookup of style rows) stay as they are.

    Args:
        graph: from ``converters.equalize.equalize``; running statistics.
        calibration: photos and styles.
        ranges: as for ``converters.quantize.quantize``.
    """
    samples = list(itertools.islice(calibration.tensors(baked=graph.baked), MAX_PAIRS))
    exported = torch.export.export(graph, samples[0]).module()
    assert isinstance(exported, fx.GraphModule)
    quantized = quantize_module(graph, calibration.tensors(baked=graph.baked), ranges=ranges)
    wanted: dict[str, Tensor] = {}
    corrections: dict[str, Tensor] = {}

    def note(node: fx.Node, results: list[Tensor]) -> None:
        wanted[_bias(node)] = _channel_means(results)

    def correct(node: fx.Node, results: list[Tensor]) -> None:
        shift = wanted[_bias(node)] - _channel_means(results)
        corrections[_bias(node)] = shift
        for result in results:  # what comes after sees the convolution as it will be
            result.add_(shift[:, None, None])

    with torch.no_grad():
        _walk(exported, samples, note)
        _walk(quantized, samples, correct)
        made = copy.deepcopy(graph)
        for path, shift in corrections.items():
            made.get_parameter(path).add_(shift)
    return made


def _walk(module: fx.GraphModule, samples: list[tuple[Tensor, ...]], visit: Any) -> None:
    """Runs a graph on all samples at once, node by node; ``visit`` gets each convolution with a bias and its results.

    Values are forgotten when their last reader has run.
    """
    runs = [fx.Interpreter(module) for _ in samples]
    for run, inputs in zip(runs, samples, strict=True):
        run.args_iter = iter(inputs)
    last_use = {source: node for node in module.graph.nodes for source in node.all_input_nodes}
    for node in module.graph.nodes:
        for run in runs:
            run.env[node] = run.run_node(node)
        if node.target is aten.conv2d.default and len(node.args) > 2 and node.args[2] is not None:
            visit(node, [run.env[node] for run in runs])
        for source in [*node.all_input_nodes, node]:
            if last_use.get(source, node) is node:
                for run in runs:
                    run.env.pop(source, None)


def _bias(node: fx.Node) -> str:
    """The path of a convolution's bias in the graph it was exported from."""
    bias = node.args[2]
    assert isinstance(bias, fx.Node)
    return str(bias.target)


def _channel_means(results: list[Tensor]) -> Tensor:
    """C means over ``N x C x H x W`` results of one shape."""
    return torch.stack([result.mean((0, 2, 3)) for result in results]).mean(0)
