"""LPIPS and FID: from a file they are what their formulas say; without file and hub, one clear sentence."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from sdk.errors import MissingRuntimeError, UsageError
from training.metrics import Choice, chosen_metrics
from training.metrics.features import tensor_of
from training.metrics.hub import Fid, Lpips
from training.metrics.instruments import prepare


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))


@pytest.fixture(scope="module")
def alexnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.alexnet(weights=None).eval()


@pytest.fixture(scope="module")
def alexnet_file(alexnet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    features = {name: value for name, value in alexnet.state_dict().items() if name.startswith("features.")}
    torch.save(features, path)
    return path


def pictures(count: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), np.uint8))


def test_lpips_from_a_file_is_the_sum_of_its_formula(alexnet: nn.Module, alexnet_file: Path) -> None:
    """Zhang et al. 2018, eq. 1, with torchvision's own network and the published heads, written out."""
    lpips = Lpips(alexnet_file)
    (one,), (other,) = pictures(1, 0), pictures(1, 1)
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    expected, maps = 0.0, [(2 * tensor_of(p) - 1 - mean.view(3, 1, 1)) / std.view(3, 1, 1) for p in (one, other)]
    heads = iter(lpips.network.lins)
    with torch.inference_mode():
        for layer in alexnet.features:
            maps = [layer(each) for each in maps]
            if isinstance(layer, nn.ReLU):
                a, b = (each / each.norm(dim=1, keepdim=True) for each in maps)
                weights = next(heads).model[-1].weight.view(1, -1, 1, 1)
                expected += float((weights * (a - b) ** 2).sum(1).mean())
                maps = [each.clone() for each in maps]
    assert next(heads, None) is None
    assert lpips.each([one, one], [other, one]) == pytest.approx([expected, 0.0], rel=1e-3, abs=1e-6)
    assert expected > 0.01


def test_files_that_are_no_alexnet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not exist"):
        Lpips(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UsageError, match="cannot be read"):
        Lpips(tmp_path / "text.pth")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"no features\.\d+\.\w+ of AlexNet"):
        Lpips(tmp_path / "other.pth")


class ColourMeans(nn.Module):
    """Four numbers a picture, for a distance that can be worked out."""

    num_features = 4

    def forward(self, batch: Tensor) -> Tensor:
        return torch.cat([batch.mean((2, 3)), batch.std((1, 2, 3), keepdim=True).flatten(1)], 1)


def test_fid_is_the_frechet_distance_of_the_features() -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="needs the extra dev")
    ours, theirs = pictures(12, 0), [(picture // 2 + 60).astype(np.uint8) for picture in pictures(9, 1)]
    network = ColourMeans()
    a, b = (torch.cat([network(tensor_of(p)) for p in group]).double().numpy() for group in (ours, theirs))
    sigma, tau = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(sigma @ tau).real
    expected = float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sigma + tau - 2 * root))
    fid = Fid(features=network)
    assert fid.between(ours, theirs) == pytest.approx(expected, rel=1e-3)
    # Nothing of the first comparison is left in the second.
    assert fid.between(ours, ours) == pytest.approx(0, abs=1e-4)
    with pytest.raises(UsageError, match="2 of each"):
        fid.between(ours[:1], theirs)


def test_a_file_that_is_no_inception_is_refused(tmp_path: Path) -> None:
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="no weights of FID's Inception"):
        Fid(tmp_path / "other.pth")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("kind", "option"), [(Lpips, "--lpips-weights"), (Fid, "--fid-weights")])
def test_offline_the_sentence_names_the_way_out(kind: type, option: str) -> None:
    with pytest.raises(MissingRuntimeError, match=rf"could not be fetched.*Name or service not known.*{option}"):
        kind()


@pytest.mark.usefixtures("offline")
def test_what_a_group_brought_is_left_out_with_a_note_and_what_was_named_is_an_error() -> None:
    notes: list[str] = []
    choice = Choice(names=("ssim", "lpips", "fid"), asked=frozenset())
    instruments, names = prepare(choice, note=notes.append)
    assert names == ("ssim",)
    assert instruments.lpips is None
    assert [note.partition(" ")[0] for note in notes] == ["lpips", "fid"]
    with pytest.raises(MissingRuntimeError, match="AlexNet's weights"):
        prepare(chosen_metrics("lpips"), note=notes.append)
