"""Losses between the network's picture and another: the teacher's, or where there is none the photo.

All take ``N x 3 x H x W`` RGB tensors on the [0, 1] scale (the network's picture may leave the range: the loss is taken
before the clamp, so that gradients survive) and return a scalar, 0 for equal pictures.

A new loss is one function here and one row of ``LOSSES``; its weight is then a key of ``loss:`` in a recipe. Losses
that need a network's features are in ``training.features``, adversarial ones in ``training.adversarial``, and
``training.criterion`` adds up what a recipe weighs. docs/losses.md lists them all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.colour import luma, rgb_to_lab
from training.features import load_stlpips
from training.representations import surface, texture, texture_weights

#: Window of SSIM (Wang et al. 2004): Gaussian, 11 pixels, sigma 1.5.
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
#: Difference of neighbours, on a [0, 1] scale, at which a place counts as flat by a share of 1/e.
_FLAT = 0.02
#: Difference of neighbouring 2 x 2 means of luma from which on a contour counts, and that at which it does in full.
_FAINT, _STRONG = 0.04, 0.12


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (output - target).abs().mean()


def gradient_l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of horizontal and of vertical neighbour differences: edges at the right places."""
    return total_variation(output - target)


def total_variation(output: Tensor) -> Tensor:
    """Anisotropic total variation: mean absolute horizontal plus mean absolute vertical neighbour difference."""
    across = output[..., :, 1:] - output[..., :, :-1]
    down = output[..., 1:, :] - output[..., :-1, :]
    return across.abs().mean() + down.abs().mean()


def ssim_loss(output: Tensor, target: Tensor) -> Tensor:
    """``1 - SSIM``, mean over pixels, channels and pictures; differentiable."""
    return 1.0 - ssim_map(output, target).mean()


def colour_l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of 8 x 8 means: flat areas get the teacher's colour, edges have no say."""
    return (F.avg_pool2d(output, 8) - F.avg_pool2d(target, 8)).abs().mean()


def lab(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference in CIELAB, per value, divided by 100: L counts on a scale of [0, 1]."""
    return (rgb_to_lab(output) - rgb_to_lab(target)).abs().mean() / 100.0


def chroma(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of CIELAB's a and b, divided by 100: binds colours and leaves lightness free."""
    return (rgb_to_lab(output)[:, 1:] - rgb_to_lab(target)[:, 1:]).abs().mean() / 100.0


def tint(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of CIELAB's a and b, of 8 x 8 means, divided by 100^2: no clouds of a foreign colour.

    A style may shift all colours a little at little cost; a patch that is far off costs by the square.
    """
    off = F.avg_pool2d(rgb_to_lab(output)[:, 1:] - rgb_to_lab(target)[:, 1:], 8) / 100.0
    return off.square().mean()


def edge(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of Sobel magnitudes of luma: lines as strong as the target's, of whatever sign."""
    return (sobel(luma(output)) - sobel(luma(target))).abs().mean()


def neighbour_steps(x: Tensor, axis: int) -> Tensor:
    """Each value minus the one before it along an axis, which gets shorter by one."""
    length = x.shape[axis] - 1
    return x.narrow(axis, 1, length) - x.narrow(axis, 0, length)


def smoothness(output: Tensor, target: Tensor) -> Tensor:
    """Marks that the picture has where the target is flat.

    Mean over neighbours of ``max(0, |d output| - |d target|) exp(-|d target| / 0.02)``, horizontal plus vertical, the
    ``d target`` of the exponent a mean over the colours: an edge-aware total variation (Godard et al. 2017,
    arXiv:1609.03677, eq. 4, for depth maps) that forgives what the target has too.
    """
    total = output.new_zeros(())
    for axis in (2, 3):
        made, given = neighbour_steps(output, axis), neighbour_steps(target, axis)
        flat = torch.exp(-given.abs().mean(1, keepdim=True) / _FLAT)
        total = total + (F.relu(made.abs() - given.abs()) * flat).mean()
    return total


def plain(output: Tensor, target: Tensor) -> Tensor:
    """Patches that the picture has where the target is plain: ``smoothness`` of 4 x 4 means plus that of 8 x 8 means.

    Grain, for which single pixels are forgiven, has averaged out of the means, and a soft patch of 30 pixels that a
    pixel's step hardly shows is four to eight times as steep in them.
    """
    return sum((smoothness(F.avg_pool2d(output, n), F.avg_pool2d(target, n)) for n in (4, 8)), output.new_zeros(()))


def contours(output: Tensor, target: Tensor) -> Tensor:
    """Contours of the target that are missing or weaker; what the picture adds is free.

    Of neighbouring 2 x 2 means of luma, horizontally and vertically: where the target's differ by ``d``, the picture's
    must differ by at least as much in the same direction. ``mean clamp((|d target| - 0.04) / 0.08) max(0, |d target| -
    sign(d target) d output)``, the first factor held to [0, 1], horizontal plus vertical.
    """
    made, given = (F.avg_pool2d(luma(x), 2) for x in (output, target))
    total = output.new_zeros(())
    for axis in (2, 3):
        have, want = neighbour_steps(made, axis), neighbour_steps(given, axis)
        strong = ((want.abs() - _FAINT) / (_STRONG - _FAINT)).clamp(0, 1)
        total = total + (strong * F.relu(want.abs() - have * want.sign())).mean()
    return total


def grid(output: Tensor, target: Tensor) -> Tensor:
    """A fixed grid in the picture: how far the four places of a 2 x 2 block differ on average, beyond the target.

    A network that ends in an upsampling by 2 writes the four places by weights of their own, and what judges it by
    features may like a grid that nobody sees at first. Of ``output - target``, each place of the blocks (top left, top
    right, ...) minus the mean of the block, averaged over windows of 4 x 4 blocks at every second one; mean absolute
    value. Edges and grain lie on all four places alike and average out.
    """
    blocks = F.pixel_unshuffle(output - target, 2)
    places = blocks.unflatten(1, (output.shape[1], 4))
    odd = (places - places.mean(2, keepdim=True)).flatten(1, 2)
    return F.avg_pool2d(odd, 4, 2).abs().mean()


def sobel(plane: Tensor) -> Tensor:
    """Edge strength ``sqrt((across^2 + down^2) / 2)``, each derivative by Sobel's kernel / 4, without padding.

    ``N x 1 x H x W`` to ``N x 1 x (H - 2) x (W - 2)``; on a [0, 1] scale it lies in [0, 1]. The normalization is that
    of scikit-image.
    """
    kernel = plane.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]) / 4.0
    slopes = F.conv2d(plane, torch.stack([kernel, kernel.T])[:, None])
    # The root's slope is without bounds at 0: the square of a millionth keeps it finite.
    return (slopes.square().mean(1, keepdim=True) + 1e-12).sqrt()


def identity(output: Tensor, given: Tensor) -> Tensor:
    """Mean absolute difference of a picture that is in the style already and what the generator makes of it.

    CycleGAN's identity loss (Zhu et al. 2017, arXiv:1703.10593, section 5.2): keeps a generator from changing colours
    that need no change. ``output`` is ``G(given)``.
    """
    return l1(output, given)


def surface_l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of surface representations: flat areas and large edges, no texture."""
    return l1(surface(output), surface(target))


def texture_l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of texture representations, with weights drawn anew from PyTorch's own generator."""
    weights = texture_weights()
    return l1(texture(output, weights), texture(target, weights))


@lru_cache
def _window(channels: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    kernel = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    kernel = (kernel / kernel.sum()).to(dtype=dtype, device=device)
    column = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1).contiguous()
    return column, column.transpose(2, 3).contiguous()


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """Local SSIM (Wang et al. 2004), Gaussian 11 x 11, without padding.

    Statistics are population ones (weights sum to 1), K1 = 0.01, K2 = 0.03 and L = 1, the convention of the paper and
    of ``sdk.metrics.ssim``.

    Args:
        a, b: ``N x C x H x W``, [0, 1] scale, H and W at least 11.

    Returns:
        ``N x C x (H - 10) x (W - 10)``, each in [-1, 1].
    """
    channels = a.shape[1]
    column, row = _window(4 * channels, a.dtype, a.device)
    # The variances occur as their sum alone: four maps to blur, not five.
    stacked = torch.cat([a, b, a * a + b * b, a * b], 1)
    blurred = F.conv2d(F.conv2d(stacked, column, groups=4 * channels), row, groups=4 * channels)
    mean_a, mean_b, squares, product = blurred.split(channels, 1)
    mean_product, mean_squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    covariance, variances = product - mean_product, squares - mean_squares
    return ((2 * mean_product + _C1) * (2 * covariance + _C2)) / ((mean_squares + _C1) * (variances + _C2))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of each picture, ``N``: the mean of ``ssim_map`` over pixels and channels."""
    return ssim_map(a, b).mean((1, 2, 3))


class Perceptual(nn.Module):
    """ST-LPIPS: distance of VGG16 (or AlexNet) features, shift-tolerant (Ghildyal and Liu 2022, arXiv:2207.13686).

    The weights come with the package ``stlpips-pytorch``; nothing is fetched. It is its own measure, not LPIPS.

    Args:
        network: ``vgg`` or ``alex``.

    Raises:
        MissingRuntimeError: when the package is not installed.
    """

    def __init__(self, network: str = "vgg") -> None:
        super().__init__()
        self.distance = load_stlpips(network)
        self.eval()

    def train(self, mode: bool = True) -> Perceptual:  # noqa: ARG002
        """Stays in eval mode: dropout has no place in a fixed measure."""
        return super().train(False)

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of each pair, ``N``, >= 0."""
        return self.distance(output, target, normalize=True).flatten()

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean distance of ``N x 3 x H x W`` pictures in [0, 1]."""
        return self.each(output, target).mean()


#: The losses between two pictures that a recipe can weigh, by key.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "gradient": gradient_l1,
    "ssim": ssim_loss,
    "colour": colour_l1,
    "lab": lab,
    "chroma": chroma,
    "tint": tint,
    "edge": edge,
    "smoothness": smoothness,
    "plain": plain,
    "contours": contours,
    "grid": grid,
    "surface": surface_l1,
    "texture": texture_l1,
}

#: The losses of the network's picture alone, by key.
PRIORS: dict[str, Callable[[Tensor], Tensor]] = {
    "total_variation": total_variation,
}


def gap_closed(result: float, photo: float) -> float:
    """Share of the distance photo -> teacher that the network closed.

    ``1 - (1 - SSIM(result, teacher)) / (1 - SSIM(photo, teacher))``: 1 is the teacher itself, 0 the untouched photo,
    below 0 worse than that.

    Args:
        result: SSIM of the network's picture to the teacher.
        photo: SSIM of the photo to the teacher.
    """
    return 1.0 - (1.0 - result) / max(1.0 - photo, 1e-9)
