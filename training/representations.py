"""White-box representations of a picture (Wang and Yu 2020, "Learning to Cartoonize Using White-box Cartoon
Representations", CVPR): surface, structure and texture.

Surface and texture are what a discriminator is given to judge instead of the picture (``REPRESENTATIONS``), or what two
pictures are compared by; structure is what a picture's features are drawn towards. The parameters are those of the
authors' training program, translated from its [-1, 1] to our [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sdk.errors import MissingRuntimeError
from training.colour import LUMA

#: Window of the surface's guided filter: 2 r + 1 pixels a side. Its regularization is 0.2 on [-1, 1], 0.05 on [0, 1].
SURFACE_RADIUS, SURFACE_EPSILON = 5, 0.05
#: How far the texture's weights of red, green and blue lie around those of luma.
TEXTURE_SPREAD = 0.1
#: Superpixels of a structure, and how they are found.
SEGMENTS, COMPACTNESS, SEGMENT_SIGMA = 200, 10.0, 1.0
#: Standard deviations, in [0, 1] units, up to which a superpixel gets its mean, and from which on its median.
_MEAN_BELOW, _MEDIAN_ABOVE = 20.0 / 255.0, 40.0 / 255.0


def box_mean(x: Tensor, radius: int) -> Tensor:
    """The mean of a window of ``2 radius + 1`` pixels a side, cut off at the border; ``N x C x H x W`` to the same."""
    side = 2 * radius + 1
    # Two passes of one row and one column; only what lies inside the picture counts.
    across = F.avg_pool2d(x, (1, side), stride=1, padding=(0, radius), count_include_pad=False)
    return F.avg_pool2d(across, (side, 1), stride=1, padding=(radius, 0), count_include_pad=False)


def guided_filter(guide: Tensor, picture: Tensor, *, radius: int, epsilon: float) -> Tensor:
    """He, Sun and Tang 2013 (TPAMI, eq. 5, 6 and 8): smooths ``picture`` but where ``guide`` has edges; differentiable.

    Each channel is guided by the same channel.

    Args:
        guide, picture: ``N x C x H x W``.
        radius: of the window, px; H and W are larger than it.
        epsilon: variance of the guide that counts as flat.
    """
    mean_guide, mean_picture = box_mean(guide, radius), box_mean(picture, radius)
    covariance = box_mean(guide * picture, radius) - mean_guide * mean_picture
    variance = box_mean(guide * guide, radius) - mean_guide * mean_guide
    slope = covariance / (variance + epsilon)
    offset = mean_picture - slope * mean_guide
    return box_mean(slope, radius) * guide + box_mean(offset, radius)


def surface(picture: Tensor) -> Tensor:
    """Surface representation: the picture without its texture, by a guided filter with itself as the guide.

    ``N x 3 x H x W`` in [0, 1] to ``N x 3 x H x W`` in [0, 1].
    """
    return guided_filter(picture, picture, radius=SURFACE_RADIUS, epsilon=SURFACE_EPSILON)


def texture_weights(generator: torch.Generator | None = None) -> Tensor:
    """Weights of red, green and blue for ``texture``, ``3``, that sum to 1: those of luma, each moved by U(-0.1, 0.1).

    The authors' program does it this way; the paper's eq. 4 mixes luma with weights of U(-1, 1), which leaves [0, 1].
    """
    drawn = torch.tensor(LUMA) + TEXTURE_SPREAD * (2 * torch.rand(3, generator=generator) - 1)
    return drawn / drawn.sum()


def texture(picture: Tensor, weights: Tensor | None = None) -> Tensor:
    """Texture representation: grey by random weights of the colours, so that colour and brightness tell nothing.

    ``N x 3 x H x W`` in [0, 1] to ``N x 1 x H x W`` in [0, 1].

    Args:
        picture: RGB.
        weights: of ``texture_weights``; real and fake pictures of one step must have the same. ``None`` draws some from
            PyTorch's own generator.
    """
    weights = texture_weights() if weights is None else weights
    return (picture * weights.to(picture).view(1, 3, 1, 1)).sum(1, keepdim=True)


#: What a discriminator can be given to judge, by key: pictures to representations. ``texture`` has one channel.
REPRESENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "surface": surface,
    "texture": texture,
}


def structure(picture: Tensor, *, segments: int = SEGMENTS) -> Tensor:
    """Structure representation: superpixels (SLIC) of one colour each; no gradient passes.

    ``N x 3 x H x W`` (clamped to [0, 1]) to ``N x 3 x H x W`` in [0, 1].

    Args:
        picture: RGB.
        segments: about how many superpixels a picture gets.

    Raises:
        MissingRuntimeError: when scikit-image is not installed.
    """
    planes = picture.detach().clamp(0, 1).permute(0, 2, 3, 1).double().cpu().numpy()
    with ThreadPoolExecutor() as pool:
        flat = list(pool.map(lambda one: flatten(one, find_superpixels(one, segments)), planes))
    return torch.as_tensor(np.stack(flat)).permute(0, 3, 1, 2).to(picture)


def find_superpixels(picture: np.ndarray, segments: int = SEGMENTS) -> np.ndarray:
    """Labels ``H x W`` of the superpixels of an ``H x W x 3`` picture in [0, 1] (SLIC, Achanta et al. 2012, in LAB).

    Raises:
        MissingRuntimeError: when scikit-image is not installed.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise MissingRuntimeError.for_extra("the structure representation", "scikit-image", "train") from error
    labels: np.ndarray = slic(
        picture, n_segments=segments, compactness=COMPACTNESS, sigma=SEGMENT_SIGMA, convert2lab=True, start_label=0
    )
    return labels


def flatten(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Gives every superpixel one colour: adaptive colouring (Wang and Yu 2020, eq. 2, with an exponent of 1).

    The mean where its standard deviation (of all its values) is below 20/255, the median above 40/255, so that a few
    strong pixels do not make it hazy, and the mean of both between.

    Args:
        picture: ``H x W x 3`` in [0, 1].
        labels: ``H x W``, one whole number a superpixel.
    """
    made = np.empty_like(picture)
    values, places = picture.reshape(-1, 3), np.argsort(labels, axis=None, kind="stable")
    ends = np.cumsum(np.unique(labels, return_counts=True)[1])[:-1]
    for members in np.split(places, ends):
        inside = values[members]
        spread = inside.std()
        share = 0.0 if spread < _MEAN_BELOW else 1.0 if spread > _MEDIAN_ABOVE else 0.5  # of the median
        colour = (1 - share) * inside.mean(0) + (share * np.median(inside, 0) if share else 0.0)
        made.reshape(-1, 3)[members] = colour
    return made
