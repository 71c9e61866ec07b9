"""In which order pictures come: all of them once, in a new order, before any comes again; without a table."""

from __future__ import annotations


def in_turn(number: int, count: int, *, seed: int) -> int:
    """Which of ``count`` things is the number ``number`` of an endless run.

    Args:
        number: place in the run, >= 0.
        count: how many things there are, >= 1.
        seed: another seed gives another order; every round of ``count`` numbers has its own, too.

    Returns:
        An index in ``range(count)``, a function of the three arguments alone.
    """
    turn, place = divmod(number, count)
    return permute(place, count, key=(seed * 1_000_003 + turn) & 0xFFFFFFFF)


def permute(index: int, count: int, *, key: int) -> int:
    """A pseudo-random permutation of ``range(count)`` without a table: a Feistel network with cycle walking."""
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            mixed = (right * 0x9E3779B1 + key * 0x85EBCA6B + turn * 0xC2B2AE35) & 0xFFFFFFFF
            mixed ^= mixed >> 15
            mixed = (mixed * 0x2C1B3C6D) & 0xFFFFFFFF
            mixed ^= mixed >> 12
            left, right = right, left ^ (mixed & mask)
        index = (left << half) | right
        if index < count:
            return index
