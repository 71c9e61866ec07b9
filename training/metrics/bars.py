"""The bars: what a style must reach, and what is customary, each with the value seen and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sdk.errors import GateError
from training.metrics.figures import Appearance, Comparison, Figures, StyleFigures, name_column

#: Share of the gap that a smooth style closes at least; a style by its own name where it has a bar of its own.
MIN_GAP, MIN_GAPS = 0.70, {"pencil": 0.80}


class Outcome(StrEnum):
    """What a bar says of a style."""

    PASS = "pass"
    FAIL = "FAIL"
    MET = "met"
    NOT_MET = "not met"
    UNKNOWN = "not measured"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row of ``BARS``.

    Attributes:
        name: what is held to it.
        limit: of a style.
        least: the value must not be below the limit; else not above it.
        ours: the project's own bar, which ``--check`` holds the checkpoint to; else a customary threshold, for reading.
        applies: to which styles.
        value: the figure; ``None`` where it was not measured.
        strict: the limit itself is not enough (customary thresholds say "above 25 dB").
        digits: of the value, in tables.
    """

    name: str
    limit: Callable[[StyleFigures], float]
    least: bool
    ours: bool
    applies: Callable[[StyleFigures], bool]
    value: Callable[[StyleFigures], float | None]
    strict: bool = False
    digits: int = 2


def _of_network(pick: Callable[[Appearance], float | None]) -> Callable[[StyleFigures], float | None]:
    return lambda row: None if row.network is None else pick(row.network)


def _always(limit: float) -> Callable[[StyleFigures], float]:
    return lambda _: limit


def _taught(row: StyleFigures) -> bool:
    return row.taught


def _learned(row: StyleFigures) -> bool:
    return not row.taught


def _customary(
    name: str, limit: float, value: Callable[[StyleFigures], float | None], *, least: bool, digits: int = 2
) -> Bar:
    return Bar(
        name=name, limit=_always(limit), least=least, ours=False, applies=_taught, value=value, strict=True,
        digits=digits,
    )  # fmt: skip


def _coloured(name: str, limit: float, pick: Callable[[Appearance], float | None]) -> Bar:
    return Bar(
        name=name, limit=_always(limit), least=False, ours=True, applies=lambda row: row.coloured,
        value=_of_network(pick),
    )  # fmt: skip


#: The project's own bars first, then what papers ask of a stylized picture.
BARS: tuple[Bar, ...] = (
    Bar(
        name="gap closed", limit=lambda row: MIN_GAPS.get(row.style, MIN_GAP), least=True, ours=True,
        applies=lambda row: row.taught and row.smooth, value=lambda row: row.gap, digits=3,
    ),
    Bar(
        name="ST-LPIPS over the photo's", limit=_always(0.4), least=False, ours=True,
        applies=lambda row: row.taught and not row.smooth, value=lambda row: row.stlpips_ratio,
    ),
    Bar(
        name="KID over the photos' own", limit=_always(0.6), least=False, ours=True, applies=_learned,
        value=lambda row: row.kid_ratio,
    ),
    Bar(
        name="detail kept", limit=_always(0.7), least=True, ours=True, applies=_learned,
        value=_of_network(lambda hand: hand.detail), digits=3,
    ),
    _coloured("skin tone, mean", 5.0, lambda hand: hand.skin),
    _coloured("skin tone, worst", 9.0, lambda hand: hand.worst_skin),
    _coloured("darker skin lightened more, L", 2.0, lambda hand: hand.skin_bias),
    _customary("PSNR, dB", 25.0, lambda row: row.psnr_db, least=True),
    _customary("SSIM", 0.85, lambda row: row.ssim, least=True, digits=4),
    _customary("LPIPS", 0.2, lambda row: row.lpips, least=False, digits=4),
    _customary("FID", 50.0, lambda row: row.fid, least=False, digits=1),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One bar on one style.

    Attributes:
        style, bar: names.
        ours: see ``Bar``.
        value: ``None`` where it was not measured.
        relation: how value and limit have to stand: ``>=``, ``<=``, ``>`` or ``<``.
        limit: the bar.
        outcome: the verdict.
        digits: of the value, in tables.
        checkpoint: whose style, where there are several.
    """

    style: str
    bar: str
    ours: bool
    value: float | None
    relation: str
    limit: float
    outcome: Outcome
    digits: int
    checkpoint: str = ""


def judge(figures: Figures | Comparison) -> tuple[Judgement, ...]:
    """Every bar on every style of every checkpoint that it applies to; a NaN fails."""
    lines = Comparison.of(figures).lines
    return tuple(_judge(bar, row, name) for name, row in lines for bar in BARS if bar.applies(row))


def _judge(bar: Bar, row: StyleFigures, checkpoint: str) -> Judgement:
    value, limit = bar.value(row), bar.limit(row)
    good, bad = (Outcome.PASS, Outcome.FAIL) if bar.ours else (Outcome.MET, Outcome.NOT_MET)
    if value is None:
        outcome = Outcome.UNKNOWN
    else:
        beyond = value > limit if bar.least else value < limit
        outcome = good if beyond or (value == limit and not bar.strict) else bad
    relation = (">" if bar.least else "<") + ("" if bar.strict else "=")
    return Judgement(
        style=row.style, bar=bar.name, ours=bar.ours, value=value, relation=relation, limit=limit, outcome=outcome,
        digits=bar.digits, checkpoint=checkpoint,
    )  # fmt: skip


def bars_table(judgements: Sequence[Judgement]) -> str:
    """One line a style, checkpoint and bar: value, what is asked, verdict; customary thresholds are marked so."""
    whose = name_column("checkpoint", [one.checkpoint for one in judgements])
    lines = [f"{'style':<12} {whose('checkpoint')}{'bar':<30} {'value':>9} {'asked':>9}  verdict"]
    for one in judgements:
        value = "-" if one.value is None else f"{one.value:.{one.digits}f}"
        note = "" if one.ours else " (customary)"
        lines.append(
            f"{one.style:<12} {whose(one.checkpoint)}{one.bar:<30} {value:>9} {f'{one.relation} {one.limit:g}':>9}  "
            f"{one.outcome}{note}"
        )
    return "\n".join(lines)


def check_bars(judgements: Sequence[Judgement]) -> None:
    """Holds every checkpoint to the project's own bars; what was not measured did not pass.

    Raises:
        GateError: one sentence with all that falls short.
    """
    short = []
    for one in judgements:
        style = f"{one.style} of {one.checkpoint}" if one.checkpoint else one.style
        if one.ours and one.outcome is Outcome.UNKNOWN:
            short.append(f"{style}: {one.bar} was not measured")
        elif one.ours and one.outcome is not Outcome.PASS:
            seen = f"{one.value:.{one.digits}f}"
            short.append(f"{style}: {one.bar} is {seen}, asked is {one.relation} {one.limit:g}")
    if short:
        who = "checkpoints fall" if any(one.checkpoint for one in judgements) else "checkpoint falls"
        raise GateError(f"the {who} short of {len(short)} bars: {'; '.join(short)}.")
