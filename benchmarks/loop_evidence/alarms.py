"""How often a year without change has alarms, how soon a change has one, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from benchmarks.loop_evidence.traffic import (
    NUM_DAYS,
    TOLERANCES,
    Floats,
    Numbers,
    Watched,
    World,
    users,
)

NUM_LOOKS = 365
SIZES = (20, 100, 140, 700, 1000, 7000)
"""Users of a week: 20, 100 and 1,000, and as many a day."""
MONTH = 30
Change = Callable[[np.random.Generator, int], Mapping[str, Floats]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quiet:
    """Years without change.

    Attributes:
        words: Who asks.
        num_users: Users of the last week.
        compared: Share of the looks that have compared.
        rang: Looks of a year that find a change anew, on average.
        years: Share of the years with one.
    """

    words: str
    num_users: int
    compared: float
    rang: float
    years: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Delay:
    """How soon a change is found, and how soon its end.

    Attributes:
        smallest: The smallest rise of the signal that the report names.
        found: Share of the changes that are found within 30 days.
        median: Days until then in half of the cases; infinite if not found.
        ended: Days from the end of a change of one week until no signal has changed, on average;
            None where it was never found.
    """

    words: str
    num_users: int
    smallest: float
    found: float
    median: float
    ended: float | None


def quiet_years(num_years: int) -> Iterator[Quiet]:
    """Yield how often alarms ring without a change; the stated rate is one a year."""
    for number in (20, 100, 1000):
        yield _count("ordinary users", _ordinary(number), num_years)
    for words, world in _hurting().items():
        yield _count(words, world, num_years)


def delays(num_cases: int) -> Iterator[Delay]:
    """Yield how soon planted changes are found, by users of a week."""
    for number in SIZES:
        for words, (name, change) in CHANGES.items():
            yield _find(words, name, number, change, num_cases)
    for number in (140, 700, 7000):
        for name in ("Labels/a", "Refusals", "PromptLength"):
            yield _find(f"{name}, just the smallest", name, number, None, num_cases)


def _ordinary(number: int, change: Change | None = None, days: range = range(0)) -> World:
    def new(rng: np.random.Generator, day: int, n: int) -> Numbers:
        return users(n, rng, **(change(rng, n) if change is not None and day in days else {}))

    return World(new=new, num_new=lambda day: number * (day % NUM_DAYS + 1) // NUM_DAYS
                 - number * (day % NUM_DAYS) // NUM_DAYS)  # fmt: skip


def _hit(rng: np.random.Generator, number: int, share: float) -> Floats:
    return (rng.random(number) < share).astype(float)


def _hurting() -> dict[str, World]:
    def heavy(rng: np.random.Generator, _day: int) -> Numbers:
        labels = rng.binomial(4, 0.8, 100) / 4
        return users(100, rng, **{"PromptLength": rng.normal(0.36, 0.03, 100), "Labels/a": labels})

    def turns(rng: np.random.Generator, _day: int, n: int) -> Numbers:
        number = rng.integers(1, 9, n)
        # Later turns are shorter, and each is answered by a label of its own.
        length = rng.normal(0.45, 0.08, n) - 0.015 * (number - 1)
        return users(
            n, rng, **{"PromptLength": length, "Labels/a": rng.binomial(number, 0.3) / number}
        )

    def week(rng: np.random.Generator, day: int, n: int) -> Numbers:
        is_end = day % 7 > 4
        labels = _hit(rng, n, 0.39 if is_end else 0.264)
        length = rng.normal(0.49 if is_end else 0.44, 0.08, n)
        return users(n, rng, **{"Labels/a": labels, "PromptLength": length})

    habits = np.random.default_rng(5).beta(0.6, 1.4, 200)

    def persons(rng: np.random.Generator, _day: int) -> Numbers:
        return users(200, rng, **{"Labels/a": rng.binomial(5, habits) / 5})

    def release(rng: np.random.Generator, day: int, n: int) -> Numbers:
        longer = 0.02 * _hit(rng, n, 0.2) * (day > 100)
        return users(n, rng, PromptLength=rng.normal(0.45, 0.08, n) + longer)

    def edge(rng: np.random.Generator, day: int, n: int) -> Numbers:
        return users(n, rng, **{"Labels/a": _hit(rng, n, 0.3 + 0.02 * (day >= 0))})

    def nobody(rng: np.random.Generator, _day: int, n: int) -> Numbers:
        return users(n, rng)

    def loud(rng: np.random.Generator, day: int) -> Numbers:
        return {name: np.full(1, float(day >= 0)) for name in TOLERANCES}

    return {
        "10 % of the users ask 60 % of the questions, shorter ones with other labels": World(
            new=nobody, num_new=lambda _: 129, regular=heavy
        ),
        "conversations of 1 to 8 turns": World(new=turns, num_new=lambda _: 143),
        "weekends: a label 26 -> 39 %, prompts 1.7 times as long": World(
            new=week, num_new=lambda _: 143
        ),
        "the same 200 persons each day, with habits": World(
            new=nobody, num_new=lambda _: 0, regular=persons
        ),
        "ten times the traffic in a year": World(
            new=nobody, num_new=lambda day: int(30 * 10 ** (max(0, day) / NUM_LOOKS))
        ),
        "one loud user, from the second week on": World(
            new=nobody, num_new=lambda _: 29, regular=loud
        ),
        "a client's release: a fifth of the prompts 25 % longer": World(
            new=release, num_new=lambda _: 143
        ),
        "a label at the end of its tolerance all year": World(new=edge, num_new=lambda _: 1000),
    }


def _count(words: str, world: World, num_years: int) -> Quiet:
    begun, compared, num_users = np.zeros(num_years), 0, 0
    for year in range(num_years):
        for _, look in Watched(world, year).looks(NUM_LOOKS + NUM_DAYS - 1):
            begun[year] += len(look.begun)
            compared += bool(look.log_e)
            num_users = look.num_users
    return Quiet(
        words=words,
        num_users=num_users,
        compared=compared / num_years / NUM_LOOKS,
        rang=float(begun.mean()),
        years=float((begun > 0).mean()),
    )


CHANGES: Mapping[str, tuple[str, Change]] = {
    "a label from 30 to 40 %": ("Labels/a", lambda r, n: {"Labels/a": _hit(r, n, 0.4)}),
    "a label from 30 to 60 %": ("Labels/a", lambda r, n: {"Labels/a": _hit(r, n, 0.6)}),
    "refusals from 1 to 5 %": ("Refusals", lambda r, n: {"Refusals": _hit(r, n, 0.05)}),
    "refusals from 1 to 50 %": ("Refusals", lambda r, n: {"Refusals": _hit(r, n, 0.5)}),
    "errors from 1 to 5 %": ("Errors", lambda r, n: {"Errors": _hit(r, n, 0.05)}),
    "thumbs down from 8 to 20 %": ("ThumbsDown", lambda r, n: {"ThumbsDown": _hit(r, n, 0.2)}),
    "answers twice as long": ("AnswerLength", lambda r, n: {
        "AnswerLength": r.normal(0.45 + 1 / 16, 0.08, n)}),
    "every fifth prompt has new words": ("Vocabulary", lambda r, n: {
        "Vocabulary": r.normal(0.35, 0.06, n) + 0.35 * _hit(r, n, 0.2)}),
}  # fmt: skip


def _find(words: str, name: str, number: int, change: Change | None, num_cases: int) -> Delay:
    """Watch changes from the third week on: one that stays, and one that ends after a week."""
    begin = 2 * NUM_DAYS
    waited, ends = np.full(num_cases, np.inf), []
    smallest = 1.0
    for case in range(num_cases):
        smallest = Watched(_ordinary(number), case).smallest(name)
        planted = change or _planted(name, smallest)
        world = _ordinary(number, planted, range(begin, 1000))
        for day, look in Watched(world, case).looks(begin + MONTH):
            if day >= begin and name in look.open:
                waited[case] = day - begin + 1
                break
        world = _ordinary(number, planted, range(begin, begin + NUM_DAYS))
        opened = [
            day for day, look in Watched(world, case).looks(begin + MONTH) if name in look.open
        ]
        if opened:
            ends.append(opened[-1] + 1 - begin - NUM_DAYS + 1)
    return Delay(
        words=words,
        num_users=number,
        smallest=smallest,
        found=float(np.isfinite(waited).mean()),
        median=float(np.sort(waited)[num_cases // 2]),
        ended=float(np.mean(ends)) if ends else None,
    )


def _planted(name: str, rise: float) -> Change:
    def change(rng: np.random.Generator, number: int) -> Mapping[str, Floats]:
        numbers = users(number, rng)[name]
        share = rise / (1 - float(users(20_000, rng)[name].mean()))
        return {name: np.where(rng.random(number) < share, 1.0, numbers)}

    return change
