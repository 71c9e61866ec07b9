"""The network: what it takes, what it costs, what its norms do, and that its checkpoint brings it back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sdk.errors import FileTroubleError, UsageError
from training.checkpoint import PRETRAINED, CheckpointInfo, load_checkpoint, save_checkpoint
from training.config import load_recipe
from training.models.attention import PixelAttention
from training.models.backbone import ENCODERS, Encoder
from training.models.generator import (
    Generator,
    GeneratorConfig,
    PlainBlock,
    PrunedWidths,
    Tail,
    config_with_widths,
    count_macs,
    count_params,
    upsample,
)
from training.models.norm import EPSILON, ConditionalNorm2d, Statistics

STYLES = ("comic", "pencil")
SMALL = GeneratorConfig(styles=2, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), expansions=(1, 1, 2, 2))
RELEASE = Path(__file__).parents[3] / "training" / "configs" / "release.yaml"


def stirred(config: GeneratorConfig = SMALL) -> Generator:
    """A network whose statistics and style rows are not their initial values."""
    torch.manual_seed(0)
    network = Generator(config).train()
    for module in network.modules():
        if isinstance(module, ConditionalNorm2d):
            nn.init.normal_(module.gamma, 1.0, 0.3)
            nn.init.normal_(module.beta, 0.0, 0.3)
    with torch.no_grad():
        for _ in range(3):
            network.raw(torch.rand(2, 3, 32, 32), torch.eye(2))
    return network.eval()


# --- size and shape


@pytest.mark.parametrize("size", [(16, 16), (48, 32), (256, 80)])
def test_any_size_divisible_by_16_gives_a_picture_of_that_size_in_range(size: tuple[int, int]) -> None:
    with torch.no_grad():
        picture = stirred()(torch.rand(1, 3, *size), torch.eye(2)[:1])
    assert picture.shape == (1, 3, *size)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture.std() > 0


@pytest.mark.parametrize(
    ("image", "style", "words"),
    [
        ((1, 3, 40, 32), (1, 2), "divisible by 16"),
        ((1, 4, 32, 32), (1, 2), "N x 3 x H x W"),
        ((3, 32, 32), (1, 2), "N x 3 x H x W"),
        ((1, 3, 32, 32), (1, 3), "N x 2 weights"),
    ],
)
def test_a_shape_the_network_cannot_take_is_refused_in_one_sentence(
    image: tuple[int, ...], style: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        stirred()(torch.zeros(image), torch.zeros(style))
    assert "\n" not in str(caught.value)


def test_the_shipped_recipe_stays_within_its_budget_of_weights_and_multiplications() -> None:
    network = Generator(load_recipe(RELEASE).generator_config())
    assert count_params(network) <= 800_000
    assert count_macs(network, 256, 256) <= 400_000_000


def test_multiplications_are_counted_as_worked_by_hand() -> None:
    """The tail alone: 12 outputs x 8 inputs x 3 x 3 taps x 16 x 16 positions; and all scale with the area."""
    network = Generator(SMALL)
    before = count_macs(network, 32, 32)
    network.tail = nn.Identity()
    pixel_shuffle_needs_twelve = nn.Conv2d(8, 12, 1)
    network.tail = pixel_shuffle_needs_twelve
    assert before - count_macs(network, 32, 32) == (12 * 8 * 9 - 12 * 8) * 16 * 16
    assert count_macs(network, 64, 64) == 4 * count_macs(network, 32, 32)


def test_the_shipped_encoder_has_no_squeeze_excite_no_hard_swish_and_no_5x5() -> None:
    encoder = Encoder(load_recipe(RELEASE).generator_config().encoder)
    names = {type(module).__name__ for module in encoder.modules()}
    assert not names & {"SqueezeExcite", "Hardswish", "HardSwish", "Hardsigmoid"}
    assert {m.kernel_size for m in encoder.modules() if isinstance(m, nn.Conv2d)} == {(1, 1), (3, 3)}


def test_no_convolution_writes_at_full_resolution() -> None:
    network = stirred()
    seen: list[tuple[int, int]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[2:])))
    with torch.no_grad():
        network(torch.rand(1, 3, 64, 64), torch.eye(2)[:1])
    assert max(seen) == (32, 32)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_widths_written_out_give_the_same_network(encoder: str) -> None:
    network = stirred(dataclasses.replace(SMALL, encoder=encoder, stem=24))
    written = config_with_widths(network)
    assert dataclasses.replace(written, pruned=None) == network.config
    again = Generator(written).eval()
    again.load_state_dict(network.state_dict())
    image, style = torch.rand(1, 3, 32, 32), torch.eye(2)[:1]
    with torch.no_grad():
        assert torch.equal(again.raw(image, style), network.raw(image, style))


def pruned_widths(config: GeneratorConfig) -> PrunedWidths:
    widths = config_with_widths(Generator(config)).pruned
    assert widths is not None
    return widths


def test_a_block_that_was_no_residual_does_not_become_one_by_narrowing() -> None:
    """Block 6 goes from 40 to 48 channels at stride 1; narrowed to 40 to 40 it must still not add its input."""
    widths = pruned_widths(SMALL)
    narrow = dataclasses.replace(widths, encoder=(*widths.encoder[:6], (120, 40), (144, 40)))
    network = Generator(dataclasses.replace(SMALL, pruned=narrow))
    assert [block.has_skip for stage in network.encoder.features.blocks for block in stage] == [
        False, False, True, False, True, True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder": ((16, 16),)}, "for 1 encoder blocks: give them for all 8"),
        ({"stem": 24}, "block 0 cannot have the pruned widths 16, 16: it has no expansion"),
        ({"encoder": 1}, "block 2 cannot have the pruned widths 88, 32: it is a residual"),
        ({"encoder": 2}, "block 1 cannot have the pruned widths 20, 24: its hidden width is a multiple of 8"),
        ({"decoder": ((8,), (8,), (16,))}, "for \\[1, 1, 1\\] decoder blocks"),
        ({"decoder": ((16,), (8,), (16,), (16,))}, "without an expansion cannot have the pruned widths \\[16\\]"),
    ],
)
def test_pruned_widths_that_no_network_can_have_are_refused_in_one_sentence(change: dict, words: str) -> None:
    config = dataclasses.replace(SMALL, stem=16)
    widths = pruned_widths(config)
    if change.get("encoder") == 1:
        change = {"encoder": (*widths.encoder[:2], (88, 32), *widths.encoder[3:])}
    elif change.get("encoder") == 2:
        change = {"encoder": (widths.encoder[0], (20, 24), *widths.encoder[2:])}
    with pytest.raises(UsageError, match=words) as caught:
        Generator(dataclasses.replace(config, pruned=dataclasses.replace(widths, **change)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_gives_strides_2_to_16(name: str) -> None:
    encoder = Encoder(name, width=0.5).eval()
    with torch.no_grad():
        features = encoder(torch.rand(1, 3, 64, 64))
    assert [f.shape[1] for f in features] == list(encoder.channels)
    assert [f.shape[2] for f in features] == [32, 16, 8, 4]


def test_an_unknown_encoder_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'tf_mobilenetv3_small_minimal_100'"):
        Encoder("tf_mobilenetv3_small_minimal")


def test_imagenet_weights_offline_or_of_another_width_fail_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"width 0\.5"):
        Encoder(ENCODERS[0], width=0.5).load_imagenet()

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(UsageError, match="could not be fetched"):
        Encoder(ENCODERS[0]).load_imagenet()


def test_weights_trained_on_normalized_pictures_give_the_same_features_on_plain_ones() -> None:
    """Inside the border, where zero padding means the same, folding mean and std into the first layer is exact."""
    torch.manual_seed(0)
    source, folded = Encoder(ENCODERS[2]).eval(), Encoder(ENCODERS[2]).eval()
    source.features.bn1.running_mean += 0.3
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    folded.load_weights(source.features.state_dict(), mean=mean, std=std)
    image = torch.rand(1, 3, 32, 32)
    normalized = (image - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.no_grad():
        want = source.features.bn1(source.features.conv_stem(normalized))
        have = folded.features.bn1(folded.features.conv_stem(image))
    assert torch.allclose(have[..., 1:, 1:], want[..., 1:, 1:], atol=1e-5)


# --- styles and norms


def test_styles_differ_and_a_mix_lies_between() -> None:
    network, image = stirred(), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        a, b, mix = (network.raw(image, torch.tensor([w])) for w in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]))
    assert (a - b).abs().mean() > 1e-3
    assert (mix - a).abs().mean() < (b - a).abs().mean()


def test_a_running_norm_is_the_written_formula() -> None:
    norm = ConditionalNorm2d(3, 2).eval()
    norm.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3]))
    norm.running_var.copy_(torch.tensor([0.5, 2.0, 1.0]))
    nn.init.normal_(norm.gamma)
    nn.init.normal_(norm.beta)
    x, style = torch.rand(1, 3, 4, 4), torch.tensor([[0.25, 0.75]])
    have = norm(x, style).detach().numpy()
    gamma, beta = (style @ norm.gamma).detach().numpy()[0], (style @ norm.beta).detach().numpy()[0]
    for c in range(3):
        scaled = (x.numpy()[0, c] - norm.running_mean[c].item()) / np.sqrt(norm.running_var[c].item() + EPSILON)
        np.testing.assert_allclose(have[0, c], gamma[c] * scaled + beta[c], rtol=1e-5, atol=1e-6)


def test_an_instance_norm_agrees_with_torchs_own() -> None:
    norm = ConditionalNorm2d(3, 1, statistics=Statistics.INSTANCE)
    x = torch.rand(2, 3, 8, 8)
    assert torch.allclose(norm(x, torch.ones(2, 1)), nn.functional.instance_norm(x), atol=1e-5)


def test_a_running_norm_does_not_look_at_the_rest_of_the_picture_and_an_instance_norm_does() -> None:
    x = torch.rand(1, 3, 8, 8)
    y = x.clone()
    y[..., 4:] += 1.0
    running, instance = ConditionalNorm2d(3, 1).eval(), ConditionalNorm2d(3, 1, statistics=Statistics.INSTANCE)
    one = torch.ones(1, 1)
    assert torch.equal(running(x, one)[..., :4], running(y, one)[..., :4])
    assert not torch.allclose(instance(x, one)[..., :4], instance(y, one)[..., :4], atol=1e-2)
    with pytest.raises(ValueError, match="instance statistics"):
        instance.population()


def test_a_spatial_feature_transform_starts_as_the_identity_and_learns() -> None:
    plain, transformed = Generator(SMALL), Generator(GeneratorConfig(**{**vars(SMALL), "sft": True}))
    transformed.load_state_dict(plain.state_dict(), strict=False)
    image, style = torch.rand(1, 3, 32, 32), torch.eye(2)[:1]
    plain.eval()
    transformed.eval()
    assert torch.equal(plain(image, style), transformed(image, style))
    transformed.raw(image, style).mean().backward()
    assert transformed.sft is not None
    assert transformed.sft.scale.weight.grad is not None
    assert transformed.sft.scale.weight.grad.abs().sum() > 0


def test_pixel_attention_starts_as_the_identity_learns_and_sees_one_position() -> None:
    plain, attentive = Generator(SMALL), Generator(GeneratorConfig(**{**vars(SMALL), "attention": True}))
    attentive.load_state_dict(plain.state_dict(), strict=False)
    image, style = torch.rand(1, 3, 32, 32), torch.eye(2)[:1]
    plain.eval()
    attentive.eval()
    assert torch.equal(plain(image, style), attentive(image, style))
    attentive.raw(image, style).mean().backward()
    assert attentive.attention is not None
    assert attentive.attention.project.weight.grad is not None
    assert attentive.attention.project.weight.grad.abs().sum() > 0
    torch.nn.init.normal_(attentive.attention.project.weight)
    x = torch.rand(1, SMALL.widths[3], 4, 4)
    moved = x.clone()
    moved[..., 1, 2] += 1.0
    with torch.no_grad():
        changed = (attentive.attention(moved) - attentive.attention(x)).abs().amax((0, 1)) > 1e-6
    assert changed.nonzero().tolist() == [[1, 2]]


def test_pixel_attention_is_value_times_hard_sigmoid_by_hand() -> None:
    attention = PixelAttention(1, hidden=1)
    for layer, weight, bias in ((attention.value, 2.0, 0.5), (attention.gate, 4.0, 3.0), (attention.project, 0.5, 0.1)):
        torch.nn.init.constant_(layer.weight, weight)
        torch.nn.init.constant_(layer.bias, bias)
    x = torch.tensor([-1.0, 0.25, 2.0]).view(1, 1, 1, 3)
    # Gate: ReLU6(4 x + 3) is 0, 4, 6; value: 2 x + 0.5 is -1.5, 1, 4.5.
    want = torch.tensor([-1.0 + 0.1, 0.25 + 0.5 * 4 + 0.1, 2.0 + 0.5 * 27 + 0.1])
    assert torch.allclose(attention(x).flatten(), want)


def test_a_config_without_attention_says_nothing_of_it_and_loads_as_before() -> None:
    described = SMALL.to_dict()
    assert "attention" not in described
    assert GeneratorConfig.from_dict(described) == SMALL
    attentive = GeneratorConfig(**{**vars(SMALL), "attention": True})
    assert attentive.to_dict()["attention"] is True
    assert GeneratorConfig.from_dict(attentive.to_dict()) == attentive


def test_a_pointwise_convolution_commutes_with_the_upsampling() -> None:
    convolution, x = nn.Conv2d(4, 6, 1), torch.rand(1, 4, 5, 7)
    assert torch.allclose(upsample(convolution(x)), convolution(upsample(x)), atol=1e-5)


# --- checkpoints


def saved(folder: Path) -> Path:
    path = folder / "network.safetensors"
    save_checkpoint(path, stirred(), CheckpointInfo(name="tiny", version="1.2.3", styles=STYLES, provenance=("made",)))
    return path


def test_a_checkpoint_brings_the_network_and_its_description_back(tmp_path: Path) -> None:
    loaded = load_checkpoint(saved(tmp_path))
    image, style = torch.rand(1, 3, 32, 32), torch.eye(2)[1:]
    with torch.no_grad():
        assert torch.equal(loaded.generator(image, style), stirred()(image, style))
    assert loaded.info == CheckpointInfo(name="tiny", version="1.2.3", styles=STYLES, provenance=("made",))
    assert not loaded.generator.training


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert saved(tmp_path).read_bytes() == saved(tmp_path / "b").read_bytes()


def damaged(path: Path, how: str) -> Path:
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "not safetensors":
        path.write_bytes(b"PK\x03\x04" + b"\0" * 5000)
    elif how == "no description":
        save_file(load_file(path), path)
    elif how == "not finite":
        rewrite(path, lambda tensors, _: tensors["tail.bias"].fill_(float("nan")))
    elif how == "other widths":
        rewrite(path, lambda _, described: described["config"].update(widths=[16, 8, 8, 8]))
    elif how == "unknown key":
        rewrite(path, lambda _, described: described["config"].update(attention=True))
    elif how == "other format":
        rewrite(path, lambda _, described: described.update(format=99))
    return path


def rewrite(path: Path, change: object) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["toonedge"])
    tensors = load_file(path)
    change(tensors, described)  # type: ignore[operator]
    save_file(tensors, path, metadata={"toonedge": json.dumps(described)})


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "does not exist"),
        ("empty", "cannot be read as safetensors"),
        ("truncated", "cannot be read as safetensors"),
        ("not safetensors", "cannot be read as safetensors"),
        ("no description", "metadata"),
        ("not finite", "not finite"),
        ("other widths", "another architecture"),
        ("unknown key", "attention"),
        ("other format", "format"),
    ],
)
def test_an_unusable_checkpoint_gets_one_sentence(tmp_path: Path, how: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_checkpoint(damaged(saved(tmp_path), how))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(FileTroubleError, match="No space left"):
        saved(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_style_names_must_match_the_rows(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 style names"):
        save_checkpoint(
            tmp_path / "x.safetensors", stirred(), CheckpointInfo(name="x", version="1", styles=("a", "b", "c"))
        )


def test_a_pruned_checkpoint_brings_its_widths_back_and_an_ordinary_one_says_nothing_of_them(tmp_path: Path) -> None:
    network = stirred()
    narrow = dataclasses.replace(
        SMALL, pruned=dataclasses.replace(pruned_widths(SMALL), decoder=((8,), (8,), (8,), (8,)))
    )
    for config in (SMALL, narrow):
        save_checkpoint(
            tmp_path / "a.safetensors", Generator(config), CheckpointInfo(name="a", version="1", styles=STYLES)
        )
        assert load_checkpoint(tmp_path / "a.safetensors").generator.config == config
    assert "pruned" not in network.config.to_dict()


def test_the_shipped_checkpoint_loads_and_is_small() -> None:
    loaded = load_checkpoint(PRETRAINED)
    assert PRETRAINED.stat().st_size < 4_000_000
    recipe = load_recipe(RELEASE)
    # The recipe's network, with the rows of the styles that are shipped (training.keep_styles).
    assert dataclasses.replace(loaded.generator.config, styles=len(recipe.styles)) == recipe.generator_config()
    assert loaded.generator.config.styles == len(loaded.info.styles)
    assert set(loaded.info.styles) <= set(recipe.styles)
    assert set(loaded.info.styles) >= {"comic", "anime", "cel", "pencil", "watercolor", "clay", "ink"}
    assert loaded.info.licence
    assert loaded.info.provenance


# --- where styles enter, plain blocks, the tail


def conditional_norms(network: Generator) -> list[str]:
    return [path for path, module in network.named_modules() if isinstance(module, ConditionalNorm2d)]


def test_styles_enter_only_where_the_config_says() -> None:
    options = vars(SMALL) | {"conditional": (False, False, True, True), "conditional_joins": (True, False, False)}
    network = stirred(GeneratorConfig(**options))
    # Stages go from stride 16 to stride 2, joins from the one to stride 8 to the one to stride 2.
    assert conditional_norms(network) == ["joins.2.deep.norm", "stages.0.0.spatial.norm", "stages.1.0.spatial.norm"]
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        first, second = (network.raw(image, row[None]) for row in torch.eye(2))
    assert (first - second).abs().mean() > 1e-3


def test_a_network_whose_norms_all_ignore_the_style_is_refused() -> None:
    nowhere = vars(SMALL) | {"conditional": (False,) * 4}
    with pytest.raises(UsageError, match="no norm of this network looks at the style"):
        Generator(GeneratorConfig(**nowhere))
    without_blocks = vars(SMALL) | {"conditional": (True, False, False, False), "depths": (0, 1, 1, 1)}
    with pytest.raises(UsageError, match="its 2 styles would be one"):
        Generator(GeneratorConfig(**without_blocks))
    Generator(GeneratorConfig(**nowhere | {"styles": 1}))


def test_a_plain_block_is_one_convolution_that_starts_near_the_identity() -> None:
    torch.manual_seed(0)
    block = PlainBlock(16, 16, 0, Statistics.RUNNING).eval()
    assert [type(m).__name__ for m in block.modules() if not list(m.children())] == ["Conv2d", "BatchNorm2d", "ReLU6"]
    block.spatial.conv.weight.data -= block.spatial.conv.weight.data * (torch.arange(9).view(3, 3) != 4)  # centre taps
    x = torch.rand(1, 16, 8, 8) * 6
    noise = block.spatial.conv.weight.data[:, :, 1, 1] - torch.eye(16)
    assert noise.abs().max() < 0.2
    block.spatial.conv.weight.data[:, :, 1, 1] -= noise
    with torch.no_grad():
        assert torch.allclose(block(x, torch.zeros(1, 0)), x, atol=1e-3)  # up to the norm's epsilon


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_tail_with_one_bias_a_colour_shares_it_among_the_four_pixels(kernel: int) -> None:
    tail = Tail(8, kernel, bias=3)
    tail.bias.data = torch.tensor([0.1, 0.2, 0.3])
    plain = tail.plain()
    assert type(plain) is nn.Conv2d
    assert plain.bias is not None
    assert plain.bias.tolist() == pytest.approx([0.1] * 4 + [0.2] * 4 + [0.3] * 4)
    x = torch.rand(1, 8, 8, 8)
    assert torch.equal(tail(x), plain(x))
    grey = nn.functional.pixel_shuffle(tail(torch.zeros(1, 8, 4, 4)), 2)
    assert torch.allclose(grey, torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1).expand(1, 3, 8, 8))
