"""Feature losses against numpy, torchvision's own network and by hand; what a recipe weighs is what is added up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from sdk.errors import UsageError
from training.adversarial import ADVERSARIAL
from training.config import LossRecipe
from training.criterion import Criterion
from training.features import FEATURE_LOSSES, Features, content, gram_l1, gram_matrix, gram_squared
from training.losses import LOSSES, PRIORS, Perceptual, l1, total_variation
from training.models.named import GENERATORS
from training.representations import structure

NONE = {"l1": 0.0, "gradient": 0.0, "ssim": 0.0}


def pictures(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def alex() -> Features:
    pytest.importorskip("stlpips_pytorch", reason="needs the extra train")
    return Features("alex")


def test_the_gram_matrix_is_numpys() -> None:
    features = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    for place, have in enumerate(gram_matrix(features)):
        rows = features[place].reshape(4, -1).numpy()
        assert np.allclose(have.numpy(), np.einsum("ip,jp->ij", rows, rows) / (4 * 3 * 5))


def test_gram_and_content_distances_by_hand() -> None:
    have = [torch.full((2, 2, 1, 2), float(k)) for k in range(1, 6)]
    want = [torch.zeros(1, 2, 3, 3) for _ in range(5)]  # one picture for both, of another size
    # Of the k-th map every entry of the Gram matrix is 2 k^2 / 4; four maps count.
    entries = [k * k / 2 for k in (1, 2, 3, 4)]
    assert float(gram_l1(have, want)) == pytest.approx(sum(entries))
    assert float(gram_squared(have, want)) == pytest.approx(sum(4 * entry**2 for entry in entries))
    assert float(content(have, [x + 3 for x in have], 2)) == pytest.approx(9.0)


def test_style_is_blind_to_where_things_are_and_content_is_not() -> None:
    features = [torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(k)) for k in range(5)]
    moved = [x.flip(-1) for x in features]
    assert float(gram_l1(features, moved)) == pytest.approx(0.0, abs=1e-6)
    assert float(content(features, moved, 3)) > 0.01


def test_features_are_the_maps_that_the_distance_of_the_package_compares(alex: Features) -> None:
    """ST-LPIPS put together again from our maps: unit vectors, squared differences, the package's own weights."""
    a, b = pictures(1, 64), pictures(1, 64, seed=1)
    distance = Perceptual("alex")
    total = 0.0
    for one, other, head in zip(alex(a), alex(b), distance.distance.lins, strict=True):
        units = [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (one, other)]
        total += float(head((units[0] - units[1]) ** 2).mean())
    assert total == pytest.approx(float(distance(a, b)), rel=1e-3)
    assert total > 0.01
    assert len(alex(a, 2)) == 2
    assert alex.train().training is False
    assert not any(parameter.requires_grad for parameter in alex.parameters())


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Random weights of VGG19's convolutions: what the user's file would hold, without the classifier."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = torchvision.models.vgg19().features.state_dict()
    state = {
        f"features.{key}": torch.randn(value.shape, generator=generator) * (2 / max(1, value[0].numel())) ** 0.5
        for key, value in shapes.items()
    }
    path = tmp_path_factory.mktemp("weights") / "vgg19.safetensors"
    save_file(state, path)
    return path, state


def test_vgg19_is_torchvisions_on_normalized_pictures(vgg19: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, state = vgg19
    with torch.device("meta"):
        trunk = torchvision.models.vgg19().features
    trunk.load_state_dict({k.removeprefix("features."): v for k, v in state.items()}, assign=True)
    picture = pictures(1, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, maps = (picture - mean) / std, []
    with torch.no_grad():
        for layer in trunk:
            if isinstance(layer, torch.nn.MaxPool2d):
                maps.append(x.clone())
            x = layer(x)
        have = Features("vgg19", path)(picture)
    assert [tuple(m.shape[1:]) for m in have] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    for one, other in zip(have, maps, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_vgg19_says_what_it_needs(vgg19: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without its weights, which are not fetched: give the file"):
        Features("vgg19")
    other = tmp_path / "other.safetensors"
    save_file({"features.0.weight": torch.zeros(1)}, other)
    with pytest.raises(UsageError, match="does not hold the weights of torchvision's VGG19"):
        Features("vgg19", other)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match=r"broken.pth cannot be read"):
        Features("vgg19", broken)
    with pytest.raises(UsageError, match="leave it out, or choose vgg19"):
        Features("vgg16", vgg19[0])
    with pytest.raises(UsageError, match="did you mean 'vgg19'"):
        Features("vgg-19")


def test_a_criterion_computes_what_is_weighed_and_adds_it_up(alex: Features) -> None:
    recipe = LossRecipe(
        **NONE, lab=2.0, total_variation=0.5, content=1.0, gram_squared=1e6, structure=3.0, identity=4.0,
        features="alex", content_layer=2,
    )  # fmt: skip
    criterion = Criterion(recipe)
    output, photo, target, style = (pictures(1, 64, seed=seed) for seed in range(4))
    restyled = style - 0.25
    parts = criterion(output, target=target, photo=photo, style=style, restyled=restyled)
    worked = {
        "lab": LOSSES["lab"](output, target),
        "total_variation": total_variation(output),
        "identity": torch.tensor(0.25),
        "content": content(alex(output), alex(photo), 2),
        "gram_squared": gram_squared(alex(output), alex(style)),
        "structure": l1(alex(output)[1], alex(structure(output))[1]),
    }
    assert set(parts) == set(worked) == set(recipe.weights())
    for name, part in parts.items():
        assert float(part) == pytest.approx(float(worked[name]), rel=1e-4), name
    total = 2 * worked["lab"] + 0.5 * worked["total_variation"] + worked["content"] + 1e6 * worked["gram_squared"]
    total = total + 3 * worked["structure"] + 1.0
    assert float(criterion.total(parts)) == pytest.approx(float(total), rel=1e-4)
    assert "identity" not in criterion(output, target=target, photo=photo, style=style)


def test_the_border_of_a_crop_has_no_say() -> None:
    criterion = Criterion(LossRecipe(**{**NONE, "l1": 1.0}, border=4, total_variation=1.0))
    photo = torch.full((1, 3, 32, 32), 0.5)
    output = photo.clone()
    output[..., :4, :] = output[..., -4:] = 9.0
    parts = criterion(output, target=photo, photo=photo, style=photo)
    assert {name: float(part) for name, part in parts.items()} == {"l1": 0.0, "total_variation": 0.0}


def test_every_loss_of_the_tables_is_a_key_of_a_recipe_and_falls_when_followed(alex: Features) -> None:
    names = {*LOSSES, *PRIORS, *FEATURE_LOSSES}
    for name in names:
        criterion = Criterion(LossRecipe(**{**NONE, name: 1.0}, features="alex", content_layer=2))
        output = pictures(1, 64, seed=1).requires_grad_()
        photo = pictures(1, 64, seed=2)
        torch.manual_seed(0)
        before = criterion(output, target=photo, photo=photo, style=photo)[name]
        before.backward()
        assert output.grad is not None
        with torch.no_grad():
            # Along the gradient a small step lowers any loss, for all pixels at once.
            moved = output - 0.01 * output.grad / output.grad.abs().max()
        torch.manual_seed(0)
        after = criterion(moved, target=photo, photo=photo, style=photo)[name]
        assert float(after) < float(before.detach()), name
    assert {"identity", "perceptual", *names} == set(
        LossRecipe(**dict.fromkeys((*names, "identity", "perceptual"), 1.0)).weights()
    )


def test_the_documentation_lists_every_loss() -> None:
    text = (Path(__file__).parents[3] / "docs" / "losses.md").read_text()
    names = {*LossRecipe(**dict.fromkeys((*LOSSES, *PRIORS, *FEATURE_LOSSES, "identity", "perceptual"), 1.0)).weights()}
    names |= {*ADVERSARIAL, *GENERATORS}
    assert [name for name in sorted(names) if f"| `{name}` |" not in text] == []
