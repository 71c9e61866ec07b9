"""Channels that can go: groups hold together, the weakest go, widths are rounded, and a cut changes nothing else."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest

pytest.importorskip("torch_pruning", reason="needs the extra export")

import torch
from torch import nn

from converters import channels
from converters.channels import (
    ChannelGroup,
    Piece,
    Ranking,
    choose_by_damage,
    choose_channels,
    cut,
    read_groups,
    weigh_pieces,
)
from training.models.generator import Generator, GeneratorConfig, count_macs
from training.models.norm import ConditionalNorm2d, Statistics

STYLES = 3
WIDE = {"stem": 16, "widths": (16, 16, 24, 32)}
#: Residuals, depthwise pairs, fused blocks, squeeze-excite, an SFT, both kinds of statistics, every encoder's quirks.
NETWORKS: dict[str, dict[str, object]] = {
    "depthwise": {},
    "fused": {"fused": (True, True, False, False), "expansions": (1, 2, 2, 2), "depths": (2, 1, 1, 2)},
    "sft": {"sft": True},
    "attention": {"attention": True},
    "instance": {"statistics": Statistics.INSTANCE},
    "squeeze-excite": {"encoder": "mobilenetv3_small_100", "activation": "hard_swish"},
    "large": {"encoder": "tf_mobilenetv3_large_minimal_100"},
}
Build = Callable[..., Generator]


def drawn(network: Generator, size: int = 32) -> torch.Tensor:
    """Pictures before the clamp, of noise, in every style and a mix."""
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1)).expand(STYLES + 1, -1, -1, -1)
    with torch.no_grad():
        return network.raw(image, torch.cat([torch.eye(STYLES), torch.full((1, STYLES), 1 / STYLES)]))


def silence(network: Generator, group: ChannelGroup, indices: list[int]) -> None:
    """Makes channels of a group exactly zero wherever they are written: a writer has a norm behind it, or a bias."""
    for name in group.layers:
        norm = network.get_submodule(name)
        if isinstance(norm, ConditionalNorm2d):
            norm.gamma.data[:, indices] = 0
            norm.beta.data[:, indices] = 0
        elif isinstance(norm, nn.BatchNorm2d):
            norm.weight.data[indices] = 0
            norm.bias.data[indices] = 0
        elif name == "attention.project":
            norm.weight.data[indices] = 0  # type: ignore[union-attr]
            norm.bias.data[indices] = 0  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", NETWORKS)
def test_channels_that_are_zero_go_from_every_group_and_nothing_changes(kind: str, build_network: Build) -> None:
    network = build_network(**{**WIDE, **NETWORKS[kind]})
    groups = {group.name: group for group in read_groups(network, size=(32, 32))}
    gone = {name: list(range(1, group.width, 2))[: group.width - 8] for name, group in groups.items()}
    gone = {name: indices[: len(indices) // 8 * 8] for name, indices in gone.items() if len(indices) >= 8}
    assert len(gone) > 5
    for name, indices in gone.items():
        silence(network, groups[name], indices)
    before = drawn(network)
    narrow = cut(network, gone)
    assert count_macs(narrow, 32, 32) < count_macs(network, 32, 32)
    torch.testing.assert_close(drawn(narrow), before, atol=1e-5, rtol=1e-5)
    # Wrong indices in one of the groups show.
    for name, indices in list(gone.items())[::6]:
        wrong = {**gone, name: [index - 1 for index in indices]}
        assert (drawn(cut(network, wrong)) - before).abs().max() > 1e-4, name


def test_the_network_cut_in_place_and_the_rebuilt_one_agree(
    build_network: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(**{**WIDE, **NETWORKS["fused"]})
    kept: list[Generator] = []
    rebuild = channels.rebuild
    monkeypatch.setattr(channels, "rebuild", lambda narrowed: (kept.append(narrowed), rebuild(narrowed))[1])
    groups = read_groups(network, size=(32, 32))
    made = cut(network, choose_channels(groups, 0.4, ranking=Ranking.GLOBAL, round_to=8, before={}))
    assert (drawn(made) - drawn(kept[0])).abs().max() <= 1e-5
    assert (drawn(made) - drawn(network)).abs().max() > 1e-3
    assert (
        Generator(GeneratorConfig.from_dict(made.config.to_dict())).state_dict().keys() == network.state_dict().keys()
    )
    assert not made.training


def test_a_width_the_config_cannot_state_is_refused(build_network: Build) -> None:
    network = build_network(**WIDE)
    network.joins[2].deep.norm = nn.BatchNorm2d(8)
    with pytest.raises(ValueError, match=r"width of joins\.2\.deep\.norm"):
        channels.rebuild(network)


def test_image_tail_and_style_rows_are_in_no_group(build_network: Build) -> None:
    network = build_network(**WIDE)
    groups = read_groups(network, size=(32, 32))
    assert "tail" not in {group.name for group in groups}
    narrow = cut(network, choose_channels(groups, 0.9, ranking=Ranking.GLOBAL, round_to=8, before={}))
    assert narrow.encoder.features.conv_stem.in_channels == 3
    assert narrow.tail.out_channels == 12
    norms = [m for m in narrow.modules() if isinstance(m, ConditionalNorm2d)]
    assert {len(norm.gamma) for norm in norms} == {STYLES}
    assert {norm.channels for norm in norms} == {8}


@pytest.mark.parametrize("name", ["stages.3.0.spatial.conv", "stages.3.0.project.conv"])
def test_multiplications_fall_as_the_group_says(name: str, build_network: Build) -> None:
    network = build_network(**{**WIDE, **NETWORKS["fused"], "depths": (1, 1, 1, 1)})
    group = next(group for group in read_groups(network, size=(64, 96)) if group.name == name)
    narrow = cut(network, {name: range(8)})
    assert count_macs(network, 64, 96) - count_macs(narrow, 64, 96) == pytest.approx(8 * group.macs)


def test_the_hidden_width_of_a_fused_block_costs_what_is_worked_out_by_hand(build_network: Build) -> None:
    """16 -> 16 by 3x3 and 16 -> 16 by 1x1 on 32 x 32 positions: a hidden channel costs (16 * 9 + 16) * 1024."""
    network = build_network(**{**WIDE, "fused": (True, False, False, False)})
    group = next(g for g in read_groups(network, size=(64, 64)) if g.name == "stages.3.0.spatial.conv")
    assert group.macs == (16 * 9 + 16) * 1024
    assert group.width == 16


def test_weak_kernels_score_low_and_the_scale_of_a_kernel_before_its_norm_does_not_count(build_network: Build) -> None:
    network = build_network(**{**WIDE, "fused": (True, False, False, False)})
    block = network.stages[3][0]
    block.spatial.conv.weight.data[[3, 7]] *= 0.1
    block.project.conv.weight.data[:, [3, 7]] *= 0.1

    def scores() -> torch.Tensor:
        return next(g for g in read_groups(network, size=(32, 32)) if g.name == "stages.3.0.spatial.conv").scores

    before = scores()
    assert before.mean() == pytest.approx(1)
    assert sorted(before.argsort()[:2].tolist()) == [3, 7]
    # Ten times the kernel and ten times the deviation is the same network.
    block.spatial.conv.weight.data[5] *= 10
    block.spatial.norm.running_mean[5] *= 10
    block.spatial.norm.running_var[5] *= 100
    torch.testing.assert_close(scores(), before, atol=1e-3, rtol=1e-3)


def group(name: str, scores: list[float], macs: float = 1.0) -> ChannelGroup:
    return ChannelGroup(name=name, scores=torch.tensor(scores), macs=macs, layers=(name,))


def test_global_ranking_takes_the_weakest_bundles_of_all_groups_and_leaves_each_its_least_width() -> None:
    weak = group("weak", [0.1 + k / 1000 for k in range(24)])
    strong = group("strong", [0.5] * 16 + [0.3] * 8)
    pick = {"ranking": Ranking.GLOBAL, "round_to": 8, "before": {}}
    # A third of 48 channels: both bundles of the weak group that may go.
    assert choose_channels([weak, strong], 1 / 3, **pick) == {"weak": tuple(range(16))}
    # Half asks for 24: the weak group has no more to give, so the strong one's weakest go, wherever they are.
    assert choose_channels([weak, strong], 0.5, **pick)["strong"] == tuple(range(16, 24))
    assert choose_channels([group("least", [1.0] * 8)], 0.9, **pick) == {}


def test_a_width_that_is_no_multiple_becomes_one() -> None:
    odd = group("odd", [float(k) for k in range(40)])
    for round_to, share in itertools.product((8, 16), (0.1, 0.3, 0.9)):
        for ranking in (Ranking.GLOBAL, Ranking.LAYER):
            gone = choose_channels([odd], share, ranking=ranking, round_to=round_to, before={"odd": 40})
            left = 40 - len(gone.get("odd", ()))
            assert left == 40 or (left % round_to == 0 and left >= round_to)
    assert len(choose_channels([odd], 0.2, ranking=Ranking.GLOBAL, round_to=16, before={})["odd"]) == 8


def test_the_layer_ranking_narrows_a_group_of_16_in_the_step_its_exact_width_falls_below_12() -> None:
    narrow, wide = group("narrow", [1.0] * 16), group("wide", [1.0] * 80)
    pick = {"ranking": Ranking.LAYER, "round_to": 8}
    first = choose_channels([narrow, wide], 0.2, before={"narrow": 16, "wide": 80}, **pick)
    assert {name: len(gone) for name, gone in first.items()} == {"wide": 16}
    second = choose_channels([narrow, group("wide", [1.0] * 64)], 0.2, before={"narrow": 12.8, "wide": 64}, **pick)
    assert {name: len(gone) for name, gone in second.items()} == {"narrow": 8, "wide": 16}  # 10.2 -> 8, 51.2 -> 48


def test_damage_is_measured_by_piece_and_the_cheapest_multiplications_go_first(build_network: Build) -> None:
    network = build_network(**WIDE)
    groups = [g for g in read_groups(network, size=(32, 32)) if g.name.startswith("stages.") and g.width >= 16]
    assert len(groups) >= 4
    dear = groups[0].name
    intact = network.state_dict()[f"{dear}.weight"].shape

    def judge(narrowed: Generator) -> float:
        return 1.0 if narrowed.state_dict()[f"{dear}.weight"].shape != intact else 1e-9

    pieces = weigh_pieces(network, groups, round_to=8, judge=judge)
    assert {piece.group for piece in pieces} == {g.name for g in groups}
    chosen = choose_by_damage(groups, pieces, sum(g.macs * 8 for g in groups[1:]))
    assert chosen
    assert dear not in chosen
    everything = sum(g.macs * g.width for g in groups)
    assert dear in choose_by_damage(groups, pieces, everything)


def test_pieces_of_a_group_go_in_order() -> None:
    wide = group("wide", [float(k) for k in range(32)], macs=10.0)
    pieces = [Piece(group="wide", count=8, price=1.0), Piece(group="wide", count=16, price=2.0)]
    assert choose_by_damage([wide], pieces, 80) == {"wide": tuple(range(8))}
    assert choose_by_damage([wide], pieces, 160) == {"wide": tuple(range(16))}
    assert choose_by_damage([wide], pieces, 30) == {}


def test_cutting_leaves_the_network_it_was_given_alone(build_network: Build) -> None:
    network = build_network(**WIDE)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cut(network, {"stages.3.0.project.conv": range(8)})
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.config == dataclasses.replace(network.config, pruned=None)
