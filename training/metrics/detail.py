"""Detail kept: which of the photo's edges the cartoon still has; and lines, by their curvature."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

#: Canny's thresholds on the gradient (L2 norm of 3 x 3 Sobel sums on luma 0..255 after a Gaussian of sigma 1).
CANNY_LOW, CANNY_HIGH, CANNY_SIGMA = 50, 100, 1.0
#: A cartoon's edge counts for a photo's edge within this distance, px.
REACH = 2
#: Scale of the derivatives that curvature is made of, and how far from the border they are taken (4 sigma), px.
CURVATURE_SIGMA, CURVATURE_MARGIN = 1.5, 6


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a picture, px: rows ``top`` to ``bottom``, columns ``left`` to ``right``, the ends exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """To cut ``H x W (x C)`` arrays with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def luma(rgb: np.ndarray) -> np.ndarray:
    """``H x W x 3`` uint8 to ``H x W`` uint8, Rec. 601 weights."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def edges(rgb: np.ndarray) -> np.ndarray:
    """Edge pixels by Canny (1986): ``H x W`` bool of ``H x W x 3`` uint8 RGB.

    Luma, Gaussian of sigma 1, 3 x 3 Sobel with the L2 norm, hysteresis between 50 and 100: the same for photos and
    cartoons, whatever their contrast.
    """
    smooth = cv2.GaussianBlur(luma(rgb), (0, 0), CANNY_SIGMA, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(cv2.Canny(smooth, CANNY_LOW, CANNY_HIGH, L2gradient=True)) > 0


def edge_recall(photo: np.ndarray, cartoon: np.ndarray, region: Region | None = None) -> float:
    """Share of the photo's edge pixels with an edge of the cartoon within ``REACH`` px (Euclidean).

        recall = |{p in E_photo in the region: min_q |p - q| <= 2, q in E_cartoon}| / |E_photo in the region|

    In a face box it is *detail kept*: eyes, brows, mouth and the face's outline. Edges of the cartoon just outside the
    region count. A picture full of edges would score 1: read it beside ``edges_added``.

    Args:
        photo, cartoon: ``H x W`` bool, see ``edges``.
        region: the part whose photo edges are looked at; the whole picture by default.

    Returns:
        [0, 1]; NaN when the photo has no edge there.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * REACH + 1, 2 * REACH + 1))
    rows, columns = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]
    disc[rows**2 + columns**2 > REACH**2] = 0
    near = cv2.dilate(cartoon.astype(np.uint8), disc) > 0
    part = slice(None) if region is None else region.slices
    wanted = photo[part]
    return float(near[part][wanted].mean()) if wanted.any() else float("nan")


def edges_added(photo: np.ndarray, cartoon: np.ndarray) -> float:
    """Edge pixels of the cartoon per edge pixel of the photo (``H x W`` bool); NaN for a photo without edges."""
    return float(cartoon.sum() / photo.sum()) if photo.any() else float("nan")


def line_curvature(rgb: np.ndarray) -> float:
    """Mean absolute curvature of a picture's lines, 1/px: *line smoothness*, the lower the smoother.

    At the pixels of ``edges`` at least 6 px from the border, with the luma L smoothed by a Gaussian of sigma 1.5 and
    its derivatives by 3 x 3 Sobel:

        kappa = (L_yy L_x^2 - 2 L_x L_y L_xy + L_xx L_y^2) / (L_x^2 + L_y^2)^(3/2)

    is the curvature of the level line through the pixel (1 / R on a circle of radius R, 0 on a straight line;
    Lindeberg, "Feature detection with automatic scale selection", 1998, section 6). ``|kappa|`` is held to 1: below a
    radius of one pixel it means a corner or noise, whatever its size.

    Args:
        rgb: ``H x W x 3`` uint8.

    Returns:
        [0, 1]; NaN for a picture without edges.
    """
    found = edges(rgb)
    # Beyond the border the picture is mirrored, which bends every line that meets it.
    inner = np.zeros_like(found)
    inner[CURVATURE_MARGIN:-CURVATURE_MARGIN, CURVATURE_MARGIN:-CURVATURE_MARGIN] = True
    found &= inner
    if not found.any():
        return float("nan")
    smooth = cv2.GaussianBlur(luma(rgb).astype(np.float32), (0, 0), CURVATURE_SIGMA, borderType=cv2.BORDER_REFLECT_101)

    def derivative(across: int, down: int) -> np.ndarray:
        # Sobel's sums over 3 x 3 are scaled to derivatives a pixel: 1/8 of first ones, 1/4 of second ones.
        scale = 1 / 8 if across + down == 1 else 1 / 4
        sums = cv2.Sobel(smooth, cv2.CV_32F, across, down, ksize=3, scale=scale, borderType=cv2.BORDER_REFLECT_101)
        return np.asarray(sums, np.float64)[found]

    x, y, xx, yy, xy = (derivative(*order) for order in ((1, 0), (0, 1), (2, 0), (0, 2), (1, 1)))
    turn = yy * x**2 - 2 * x * y * xy + xx * y**2
    curvature = np.abs(turn) / np.maximum(x**2 + y**2, 1e-12) ** 1.5
    return float(np.minimum(curvature, 1.0).mean())
