"""What the traffic is compared with: signals, and the limits of each, from rows of training. Pure.

Half of the groups makes the signals that are fitted: the vocabulary, and which labels there are.
Only the other half says what their means are, because a text is less surprising to a vocabulary
that was counted over it. All rows say what the means of the other signals are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.monitor.signals import Answered, Signal, fit_signals, signal_of
from finetune_trainer.statistics.bounded import confidence_of_mean
from finetune_trainer.statistics.confidence import DEFAULT_CERTAINTY, Floats
from finetune_trainer.statistics.drift import Limits, limits_of

MIN_ROWS = 50
"""Rows that say something of a signal; with fewer it is not watched."""
NUM_BINS = 32
MAX_ROWS = 10_000
"""Rows that are taken: more make the limits hardly nearer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceRow:
    """A row of training, or a question of the evaluation with the model's answer.

    Attributes:
        group: Rows of one group depend on each other.
    """

    answered: Answered
    group: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """A signal with its limits.

    Attributes:
        mean: Of the reference; None where it says nothing of the signal.
        num_rows: Of the reference that the limits are from.
        bins: How many rows have which number; see :func:`count_bins`.
    """

    signal: Signal
    limits: Limits
    mean: float | None = None
    num_rows: int = 0
    bins: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What the traffic is compared with.

    Attributes:
        digest: Of all rows: evidence against one reference says nothing of another.
        watched: By name of the signal.
    """

    digest: str
    watched: Mapping[str, Watched]


def make_reference(
    rows: Sequence[ReferenceRow],
    *,
    names: Collection[str] | None = None,
    certainty: float = DEFAULT_CERTAINTY,
) -> Reference:
    """Return the reference of some rows. The order of the rows does not matter.

    Args:
        rows: Drawn at random.
        names: Signals to watch, as the endpoint's status names them; by default all.
        certainty: Least probability that all limits hold the means that the rows stand for.

    Raises:
        ValueError: There are too few rows to watch anything.
    """
    ordered = sorted(rows, key=_place)[:MAX_ROWS]
    fitting = [row for row in ordered if _is_fitting(row.group)]
    others = [row for row in ordered if not _is_fitting(row.group)]
    signals = [
        signal
        for signal in fit_signals([row.answered for row in fitting])
        if names is None or signal_of(signal.name) in names
    ]
    given = {
        signal.name: Watched(signal=signal, limits=signal.limits)
        for signal in signals
        if signal.limits is not None
    }
    measured = {
        signal.name: (signal, _measure(signal, others if signal.is_fitted else ordered))
        for signal in signals
        if signal.limits is None
    }
    enough = {name: found for name, found in measured.items() if len(found[1]) >= MIN_ROWS}
    if not enough and not given:
        raise ValueError(
            f"the reference has {len(rows)} rows, and no signal applies to {MIN_ROWS} of them; "
            "train on more rows before you monitor"
        )
    return Reference(
        digest=_digest(ordered),
        watched=given
        | {
            name: _watch(signal, found, num_signals=len(enough), certainty=certainty)
            for name, (signal, found) in enough.items()
        },
    )


def count_bins(numbers: Floats) -> tuple[int, ...]:
    """Return how many numbers lie in each of :data:`NUM_BINS` equal parts of 0 to 1."""
    return tuple(np.histogram(numbers, bins=NUM_BINS, range=(0.0, 1.0))[0].tolist())


def _watch(
    signal: Signal, measured: Sequence[tuple[str, float]], *, num_signals: int, certainty: float
) -> Watched:
    groups = {group: number for number, group in enumerate(dict.fromkeys(g for g, _ in measured))}
    numbers = np.array([number for _, number in measured])
    confidence = confidence_of_mean(numbers, np.array([groups[group] for group, _ in measured]))
    return Watched(
        signal=signal,
        limits=limits_of(
            confidence, num_signals=num_signals, tolerance=signal.tolerance, certainty=certainty
        ),
        mean=confidence.value,
        num_rows=len(numbers),
        bins=count_bins(numbers),
    )


def _measure(signal: Signal, rows: Sequence[ReferenceRow]) -> list[tuple[str, float]]:
    found = ((row.group, signal.measure(row.answered)) for row in rows)
    return [(group, number) for group, number in found if number is not None]


def _place(row: ReferenceRow) -> tuple[bytes, str, str]:
    """Return where a row stands among all: a group that is taken is so by chance."""
    return _hash(row.group), row.answered.prompt or "", row.answered.answer or ""


def _is_fitting(group: str) -> bool:
    return _hash(group)[-1] % 2 == 0


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _digest(rows: Sequence[ReferenceRow]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        for text in (row.group, row.answered.prompt or "", row.answered.answer or ""):
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8) + raw)
    return digest.hexdigest()
