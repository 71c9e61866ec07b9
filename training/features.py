"""Features of a classifier, and what is compared in them: content, and style as Gram matrices.

VGG16 and AlexNet come with the package ``stlpips-pytorch`` (its shift-tolerant variants, whose pooling is antialiased);
torchvision's VGG19, the one most papers take, needs a file of weights that the user has. Nothing is fetched.
"""

from __future__ import annotations

import contextlib
import importlib.util
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.errors import MissingRuntimeError, UsageError, unknown_name

#: Mean and standard deviation of ImageNet, on the [0, 1] scale, that torchvision's weights expect.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Where the five maps of VGG19 are taken: after the last ReLU before each pooling (relu1_2, 2_2, 3_4, 4_4, 5_4).
_VGG19_ENDS = (4, 9, 18, 27, 36)
#: Networks whose features can be had, by name.
NETWORKS = ("vgg16", "alex", "vgg19")
#: The losses that compare features, keys of a recipe; ``training.criterion`` computes them.
FEATURE_LOSSES = ("content", "gram", "gram_squared", "structure")
#: Maps of a network: after the last ReLU of each of its five stages.
MAPS = 5
#: Maps whose Gram matrices are compared (Johnson et al. 2016, arXiv:1603.08155: relu1_2, 2_2, 3_3 and 4_3).
STYLE_MAPS = 4


@contextlib.contextmanager
def _debugging_aids() -> Iterator[None]:
    """``stlpips-pytorch`` imports, and never calls, two names of packages it does not declare: empty ones meanwhile."""
    absent = {"IPython": "embed", "torchsummary": "summary"}
    made = [name for name in absent if importlib.util.find_spec(name) is None]
    for name in made:
        module = types.ModuleType(name)
        setattr(module, absent[name], None)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in made:
            sys.modules.pop(name, None)


def load_stlpips(network: str) -> nn.Module:
    """The distance of ``stlpips-pytorch``, in eval mode, without gradients of its weights.

    Args:
        network: ``vgg`` or ``alex``.

    Raises:
        MissingRuntimeError: when the package is not installed.
    """
    try:
        with _debugging_aids():
            from stlpips_pytorch import stlpips
    except ImportError as error:
        raise MissingRuntimeError.for_extra("the ST-LPIPS distance", "stlpips-pytorch", "train") from error
    made: nn.Module = stlpips.LPIPS(net=network, variant="shift_tolerant", verbose=False)
    return made.requires_grad_(False).eval()


class Features(nn.Module):
    """Five feature maps of a fixed network, one a stage, each after the stage's last ReLU.

    Args:
        network: a name of ``NETWORKS``.
        weights: for ``vgg19``: torchvision's ``vgg19`` state dict, ``.pth`` or ``.safetensors``.

    Raises:
        UsageError: an unknown name, ``vgg19`` without weights, or a file that does not hold them.
        MissingRuntimeError: when ``stlpips-pytorch`` is needed and not installed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: str = "vgg16", weights: Path | None = None) -> None:
        super().__init__()
        if network not in NETWORKS:
            raise unknown_name("feature network", network, NETWORKS)
        if network == "vgg19":
            slices: Sequence[nn.Module] = _vgg19(weights)
        elif weights is not None:
            raise UsageError(
                f"a file of weights was given for {network}, whose weights come with stlpips-pytorch: leave it out, or "
                "choose vgg19."
            )
        else:
            trunk = load_stlpips("vgg" if network == "vgg16" else network).net
            slices = [getattr(trunk, f"slice{k + 1}") for k in range(MAPS)]
        self.network = network
        self.slices = nn.ModuleList(slices)
        for layer in self.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # a map is kept while the next stage runs
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Features:  # noqa: ARG002
        """Stays in eval mode: the network is a fixed measure."""
        return super().train(False)

    def forward(self, picture: Tensor, maps: int = MAPS) -> list[Tensor]:
        """``N x 3 x H x W`` in [0, 1] to the first ``maps`` feature maps, at strides 1, 2, 4, 8, 16 for VGG."""
        x, made = (picture - self.mean) / self.std, []
        for stage in self.slices[:maps]:
            x = stage(x)
            made.append(x)
        return made


def _vgg19(weights: Path | None) -> list[nn.Module]:
    if weights is None:
        raise UsageError(
            "torchvision's VGG19 was asked for without its weights, which are not fetched: give the file of its state "
            "dict (vgg19-dcbb9e9d.pth), or choose vgg16, whose weights are installed."
        )
    path = Path(weights)
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"the VGG19 weights {path} cannot be read ({reason}): give torchvision's vgg19 state dict."
        ) from error
    with torch.device("meta"):  # the classifier's 120 M weights are never made
        trunk = torchvision.models.vgg19().features
    own = trunk.state_dict()
    given = {key: state.get(f"features.{key}") if isinstance(state, dict) else None for key in own}
    wrong = [key for key, value in given.items() if getattr(value, "shape", None) != own[key].shape]
    if wrong:
        raise UsageError(
            f"{path} does not hold the weights of torchvision's VGG19 ({len(wrong)} tensors are absent or of another "
            f"shape, first: features.{wrong[0]}): give its vgg19 state dict."
        )
    trunk.load_state_dict(given, assign=True)
    return [trunk[start:end] for start, end in zip((0, *_VGG19_ENDS), _VGG19_ENDS, strict=False)]


def gram_matrix(features: Tensor) -> Tensor:
    """Which channels fire together: ``N x C x H x W`` to ``N x C x C``, ``F F^T / (C H W)`` with F of C rows.

    Gatys et al. 2016 (CVPR, eq. 3) in the normalization of Johnson et al. 2016 (arXiv:1603.08155, eq. 3).
    """
    rows = features.flatten(2)
    return rows @ rows.transpose(1, 2) / rows[0].numel()


def content(have: Sequence[Tensor], want: Sequence[Tensor], layer: int) -> Tensor:
    """Mean squared difference of one feature map (Johnson et al. 2016, eq. 2).

    Args:
        have, want: feature maps of ``Features``.
        layer: which one, from 1.
    """
    return F.mse_loss(have[layer - 1], want[layer - 1])


def gram_l1(have: Sequence[Tensor], want: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of Gram matrices, summed over the first ``STYLE_MAPS`` maps.

    ``want`` may be of one picture for all of ``have``, or of one each; sizes may differ.
    """
    return _gram_distance(have, want, lambda difference: difference.abs().mean())


def gram_squared(have: Sequence[Tensor], want: Sequence[Tensor]) -> Tensor:
    """Squared Frobenius norm of the difference of Gram matrices (Johnson et al. 2016, eq. 4), summed over maps.

    ``want`` as for ``gram_l1``; mean over pictures. It is this one that customary weights of up to 1e6 are meant for.
    """
    return _gram_distance(have, want, lambda difference: difference.square().sum((1, 2)).mean())


def _gram_distance(have: Sequence[Tensor], want: Sequence[Tensor], distance: Callable[[Tensor], Tensor]) -> Tensor:
    pairs = zip(have[:STYLE_MAPS], want[:STYLE_MAPS], strict=True)
    return torch.stack([distance(gram_matrix(a) - gram_matrix(b)) for a, b in pairs]).sum()
