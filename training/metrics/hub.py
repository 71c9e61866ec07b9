"""LPIPS and FID proper, by torchmetrics. Their networks' weights come from a hub, or from a file that is named."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sdk.errors import MissingRuntimeError, UsageError
from training.metrics.features import tensor_of

#: What an absent network, a broken download and a broken file raise.
_UNREADABLE = (OSError, RuntimeError, pickle.UnpicklingError, KeyError, EOFError, ValueError)


class Lpips:
    """LPIPS with AlexNet (Zhang et al., CVPR 2018), version 0.1, as torchmetrics has it.

    Its linear heads come with torchmetrics; AlexNet's weights are torchvision's.

    Args:
        weights: torchvision's ``alexnet-owt-7be5be79.pth`` or another state dict of its AlexNet; from the hub when
            ``None``.

    Raises:
        UsageError: a file that is no state dict of AlexNet.
        MissingRuntimeError: no file was named and the hub cannot be reached.
    """

    def __init__(self, weights: Path | None = None) -> None:
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        if weights is None:
            try:
                self.network = _NoTrainLpips(net="alex")
            except (OSError, RuntimeError) as error:
                raise _no_hub("LPIPS", "AlexNet", "--lpips-weights", error) from error
            return
        self.network = _NoTrainLpips(net="alex", pnet_rand=True)
        stored = _read(weights, "LPIPS")
        for key in self.network.net.state_dict():
            # torchmetrics cuts torchvision's `features` into slices whose members keep their number.
            _, number, kind = key.split(".")
            _copy(self.network.net.get_parameter(key), stored, f"features.{number}.{kind}", weights)

    def each(self, pictures: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> list[float]:
        """Distance of each pair of ``H x W x 3`` uint8 pictures, >= 0."""
        with torch.inference_mode():
            return [
                float(self.network(tensor_of(one), tensor_of(other), normalize=True))
                for one, other in zip(pictures, references, strict=True)
            ]


class Fid:
    """Frechet inception distance (Heusel et al., NeurIPS 2017), by torchmetrics.

        |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

    of the means and covariances of 2048 Inception features. Its bias grows as pictures get fewer: published values take
    10,000 and more, a few dozen give a rank-deficient covariance. Read it as a comparison within one set of photos.

    Args:
        weights: torch-fidelity's ``pt_inception-2015-12-05-6726825d.pth``; from the hub when ``None``.
        features: another network (``N x 3 x H x W`` in [0, 1] to ``N x D``) instead of Inception.

    Raises:
        UsageError: a file that is no state dict of that network.
        MissingRuntimeError: no file was named and the hub cannot be reached; or ``torch-fidelity`` is not installed.
    """

    def __init__(self, weights: Path | None = None, *, features: nn.Module | None = None) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        options: dict[str, Any] = {"feature": features if features is not None else 2048, "normalize": True}
        if weights is not None:
            _read(weights, "FID")
            options["feature_extractor_weights_path"] = str(weights)
        try:
            self.metric = FrechetInceptionDistance(**options)
        except ModuleNotFoundError as error:
            raise MissingRuntimeError.for_extra("FID", "torch-fidelity", "train") from error
        except _UNREADABLE as error:
            if weights is not None:
                raise UsageError(
                    f"{weights} holds no weights of FID's Inception: give torch-fidelity's file."
                ) from error
            raise _no_hub("FID", "Inception", "--fid-weights", error) from error

    def between(self, pictures: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> float:
        """Distance of two sets of ``H x W x 3`` uint8 pictures, at least 2 each, >= 0."""
        if min(len(pictures), len(references)) < 2:
            raise UsageError(f"FID of {len(pictures)} and {len(references)} pictures is not defined: give 2 of each.")
        self.metric.reset()
        for real, group in ((True, references), (False, pictures)):
            for picture in group:
                self.metric.update(tensor_of(picture), real=real)
        return float(self.metric.compute())


def _no_hub(metric: str, network: str, option: str, error: Exception) -> MissingRuntimeError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(".:")
    return MissingRuntimeError(
        f"{metric} needs {network}'s weights, which could not be fetched from their hub ({reason}): go online once, or "
        f"name the file with {option}; kid and stlpips need no hub."
    )


def _read(path: Path, metric: str) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"the weights {path} for {metric} do not exist: check the path.")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise UsageError(
            f"the weights {path} for {metric} cannot be read: give a state dict saved by PyTorch."
        ) from error
    if not isinstance(stored, dict):
        raise UsageError(f"the weights {path} for {metric} are a {type(stored).__name__}: give a state dict.")
    return stored


def _copy(parameter: nn.Parameter, stored: dict[str, Any], name: str, path: Path) -> None:
    value = stored.get(name)
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        raise UsageError(f"the weights {path} hold no {name} of AlexNet's shape: give torchvision's AlexNet.")
    with torch.no_grad():
        parameter.copy_(value)
