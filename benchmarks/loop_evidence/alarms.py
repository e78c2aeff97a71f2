"""How often a year without change has alarms, and how soon a change has one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from benchmarks.loop_evidence.traffic import Endpoint, Signal, Years, bell, hits

from finetune_trainer.statistics.drift import Limits, log_alarm_bound, log_mean_of_signals

LOOKS_PER_YEAR = 24 * 365
FALSE_ALARMS_PER_YEAR = 1.0
NUM_USERS = 200
NUM_REFERENCE = 1000
SIZES = (300, NUM_REFERENCE, 3000)
MOST_LOOKS = 1000
"""After so many looks a change counts as not found."""
NUM_QUIET = 50
"""Looks before a change begins."""

LENGTH = bell(0.45, 0.08, 0.02)
WORDS = bell(0.35, 0.06, 0.02)
SIGNALS: Mapping[str, Signal] = {
    "PromptLength": LENGTH,
    "AnswerLength": LENGTH,
    "Vocabulary": WORDS,
    "Refusals": hits(0.01, 0.005),
    "InvalidJson": hits(0.02, 0.005),
    "LabelShare": hits(0.3, 0.02),
    "Quality": hits(0.95, 0.02),
}
ENDPOINT = Endpoint(signals=SIGNALS, num_reference=NUM_REFERENCE, num_users=NUM_USERS)
CHANGES: Mapping[str, Mapping[str, Signal]] = {
    "vocabulary: every fifth prompt has new words": {
        "Vocabulary": WORDS.mixed(bell(0.7, 0.06, 0), 0.2)
    },
    "language: every tenth prompt in another": {
        "Vocabulary": WORDS.mixed(bell(0.95, 0.03, 0), 0.1)
    },
    "prompts twice as long": {"PromptLength": bell(0.45 + 1 / 16, 0.08, 0)},
    "a label from 30 to 40 %": {"LabelShare": hits(0.4, 0)},
    "refusals from 1 to 5 %": {"Refusals": hits(0.05, 0)},
    "invalid JSON from 2 to 5 %": {"InvalidJson": hits(0.05, 0)},
    "quality from 0.95 to 0.85": {"Quality": hits(0.85, 0)},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Quiet:
    """Years without change.

    Attributes:
        words: What is watched, and how.
        per_year: Mean alarms per year.
        error: Its standard error.
        rang: Share of the years with an alarm.
        most: Most alarms of a year.
    """

    words: str
    per_year: float
    error: float
    rang: float
    most: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Delay:
    """How soon a change is found.

    Attributes:
        found: Share of changes that were found.
        median: Answers from the change to the alarm in half of the cases; infinite if not found.
        late: The same in nine of ten cases.
        blamed: Share of the alarms that name a signal that changed.
    """

    words: str
    num_reference: int
    found: float
    median: float
    late: float
    blamed: float


def quiet_years(num_years: int, num_looks: int = LOOKS_PER_YEAR) -> Iterator[Quiet]:
    """Yield how often alarms ring without a change; the stated rate is one a year."""
    yield _watch("as the monitor does", Years(ENDPOINT, num_years=num_years, seed=1), num_looks)
    small = replace(ENDPOINT, num_reference=100)
    yield _watch("a reference of 100 rows", Years(small, num_years=num_years, seed=2), num_looks)
    yield _watch(
        "one user is loud in every look, all year",
        Years(ENDPOINT, num_years=num_years, seed=3),
        num_looks,
        loud=1.0,
    )
    alone = replace(ENDPOINT, signals={"Refusals": SIGNALS["Refusals"]})
    limits = {"Refusals": Limits(low=0.02, high=0.05)}
    yield _count(
        "one signal, at its limit all year: the hardest case that the rate covers",
        Years(alone, num_years=num_years, seed=4, num_loud=0, given=limits),
        {"Refusals": hits(0.05, 0)},
        num_looks,
    )
    yield _watch(
        "beside it: the reference's mean is taken for the truth",
        Years(ENDPOINT, num_years=num_years, seed=5, is_exact=True),
        num_looks,
    )
    known = {"Refusals": Limits(low=0.01, high=0.01)}
    yield _watch(
        "beside it: one loud user who is heard",
        Years(alone, num_years=num_years, seed=6, num_loud=0, given=known),
        num_looks,
        loud=1.0,
    )


def delays(num_cases: int, sizes: Sequence[int] = SIZES) -> Iterator[Delay]:
    """Yield how soon planted changes are found, by rows of the reference."""
    for size in sizes:
        endpoint = replace(ENDPOINT, num_reference=size)
        for words, change in CHANGES.items():
            yield _find(words, endpoint, change, num_cases)


def _watch(words: str, years: Years, num_looks: int, loud: float | None = None) -> Quiet:
    return _count(words, years, SIGNALS, num_looks, loud)


def _count(
    words: str,
    years: Years,
    now: Mapping[str, Signal],
    num_looks: int,
    loud: float | None = None,
) -> Quiet:
    bound = log_alarm_bound(looks_per_year=num_looks, false_alarms_per_year=FALSE_ALARMS_PER_YEAR)
    counts = np.zeros(years.number)
    for _ in range(num_looks):
        counts += log_mean_of_signals(years.look(now, bound, loud)) >= bound
    return Quiet(
        words=words,
        per_year=float(counts.mean()),
        error=float(counts.std() / np.sqrt(len(counts))),
        rang=float((counts > 0).mean()),
        most=int(counts.max()),
    )


def _find(words: str, endpoint: Endpoint, change: Mapping[str, Signal], num_cases: int) -> Delay:
    bound = log_alarm_bound(
        looks_per_year=LOOKS_PER_YEAR, false_alarms_per_year=FALSE_ALARMS_PER_YEAR
    )
    years = Years(endpoint, num_years=num_cases, seed=7)
    for _ in range(NUM_QUIET):
        years.look(SIGNALS, bound)
    changed = [list(SIGNALS).index(name) for name in change]
    waited = np.full(num_cases, np.inf)
    is_blamed = np.zeros(num_cases, dtype=bool)
    for number in range(1, MOST_LOOKS + 1):
        by_signal = years.look({**SIGNALS, **change}, bound)
        rings = (log_mean_of_signals(by_signal) >= bound) & np.isinf(waited)
        waited[rings] = number
        is_blamed[rings] = np.isin(by_signal[rings].argmax(axis=-1), changed)
        if np.isfinite(waited).all():
            break
    found = np.isfinite(waited)
    answers = np.sort(waited * endpoint.num_users)
    return Delay(
        words=words,
        num_reference=endpoint.num_reference,
        found=float(found.mean()),
        median=float(answers[len(answers) // 2]),
        late=float(answers[int(0.9 * len(answers))]),
        blamed=float(is_blamed[found].mean()) if found.any() else 0.0,
    )
