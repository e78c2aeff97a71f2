"""One look at an endpoint's traffic: state before and rows in, state after out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from finetune_api.v1alpha1.status.traffic import QualityStatus
from finetune_trainer.monitor.signals import Signal
from finetune_trainer.monitor.spans import MAX_ANSWERS
from finetune_trainer.monitor.state import NUM_CHANGES_KEPT, Change, Reference, State
from finetune_trainer.monitor.users import Tally, UserRow
from finetune_trainer.statistics.confidence import Floats
from finetune_trainer.statistics.drift import (
    log_alarm_bound,
    log_evidence,
    log_mean_of_sides,
    smallest_changes,
)

YEAR = timedelta(days=365)
NUM_EXAMPLES = 5
MOST_UNEQUAL = 1.25
"""By so much the shares of two windows that were read may differ: with less, users who ask seldom
are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How an endpoint is monitored, as ``spec.monitor`` has it.

    Attributes:
        every: From one look to the next, at least.
        window: Time whose users are compared: that of the reference, and that before each look.
        false_alarms_per_year: Most that are expected.
        min_users: Users of a window that are compared; with fewer they wait.
        max_answers: Answers that a look reads.
    """

    every: timedelta = timedelta(days=1)
    window: timedelta = timedelta(days=7)
    false_alarms_per_year: float = 1.0
    min_users: int = 100
    max_answers: int = MAX_ANSWERS

    def log_bound(self, num_parts: int) -> float:
        """Return the logarithm of the evidence at which one of some parts has changed."""
        return log_alarm_bound(
            looks_per_year=YEAR / self.every,
            false_alarms_per_year=self.false_alarms_per_year,
            num_signals=max(1, num_parts),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of a signal in one look.

    Attributes:
        then: Numbers of the reference, one per user.
        now: Numbers of the look.
        is_higher: Whether the evidence is for a greater mean, not for a smaller one.
        rise: The smallest rise of the mean that looks find within a month; None if they find none.
        fall: As ``rise``.
    """

    then: Floats
    now: Floats
    log_e: float
    is_higher: bool
    rise: float | None
    fall: float | None

    @property
    def smallest(self) -> float:
        """The smallest change that looks find within a month; 1 if they find none."""
        return min((each for each in (self.rise, self.fall) if each is not None), default=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a look found.

    Attributes:
        parts: By name; empty if nothing was compared.
        left_out: Users of the reference to whom a part applies, where these are too few.
        examples: Response ids of the answers that are furthest from the reference in a part.
        part: This part: that with the most evidence; empty if none has any.
        quality: What people and the judge say; None if nobody is asked.
    """

    state: State
    log_bound: float
    parts: Mapping[str, Part] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    part: str = ""
    examples: tuple[str, ...] = ()
    quality: QualityStatus | None = None


def look_at(
    rows: Iterable[UserRow],
    signals: Mapping[str, Signal],
    before: State,
    settings: Settings,
    *,
    since: datetime,
    end: datetime,
    share: float = 1.0,
) -> Look:
    """Look at the users of a window.

    The first window with enough users after ``since`` is the reference. The first one that begins
    after its end is compared.

    Args:
        rows: Answers of the window before ``end``. They are read once, and not kept.
        signals: What is measured.
        before: State after earlier looks at the same version.
        settings: How the endpoint is monitored.
        since: When the version became the active one, or was first captured.
        end: Of the window, excluded.
        share: Of the window's segments that is read.

    Raises:
        ValueError: The last look was less than ``settings.every`` ago. Looks that are not counted
            for break the rate of false alarms.
    """
    if before.until is not None and end - before.until < settings.every:
        raise ValueError(
            f"a look at {end} follows that at {before.until} sooner than monitor.every, which is "
            f"{settings.every}; wait until that has passed"
        )
    tally = Tally(signals.values(), num_examples=NUM_EXAMPLES)
    for row in rows:
        tally.add(row)
    state = replace(before, until=end, num_answers=tally.num_rows, num_users=tally.num_users)
    begin, reference = end - settings.window, before.reference
    has_users = tally.num_users >= settings.min_users
    if reference is None and has_users and begin >= (before.since or since):
        reference = Reference(end=end, numbers=tally.numbers(), share=share)
        state = replace(state, reference=reference)
    known = {} if reference is None else reference.numbers
    watched = [name for name in signals if len(known.get(name, ())) >= settings.min_users]
    bound = settings.log_bound(len(watched))
    left_out = {name: len(known.get(name, ())) for name in signals if known and name not in watched}
    shares = (share, share if reference is None else reference.share)
    is_alike = max(shares) <= MOST_UNEQUAL * min(shares)
    parts: dict[str, Part] = {}
    if reference is not None and begin >= reference.end and has_users and is_alike:
        numbers = tally.numbers()
        parts = {
            name: _compare(reference.numbers[name], numbers[name], signals[name].tolerance, bound)
            for name in watched
        }
    found = max(parts, key=lambda name: parts[name].log_e, default="")
    part = found if found and parts[found].log_e > 0 else ""
    return Look(
        state=replace(
            state,
            num_looks=before.num_looks + bool(parts),
            note=_note(before, parts, left_out, () if is_alike else shares),
            log_e={name: each.log_e for name, each in parts.items()},
            smallest={name: each.smallest for name, each in parts.items()},
            changes=_changes(before, parts, bound, end)[-NUM_CHANGES_KEPT:],
        ),
        log_bound=bound,
        parts=parts,
        left_out=left_out,
        part=part,
        examples=tally.examples_of(part, is_higher=parts[part].is_higher) if part else (),
    )


def _note(
    before: State,
    parts: Mapping[str, Part],
    left_out: Mapping[str, int],
    unequal: tuple[float, ...],
) -> str:
    """Return what was not compared, or why the reference is new; ``unequal`` has unlike shares."""
    notes = {
        "Not compared, because of this window and the first one unequal shares were read": (
            [" and ".join(f"{each:.2f}" for each in unequal)] if unequal else []
        ),
        "Window, sample, data or measures changed, so a new reference is gathered since": (
            [] if before.since is None else [f"{before.since:%Y-%m-%d %H:%M}"]
        ),
        "Ended, because they are not compared": [name for name in before.open if name not in parts],
        "Left out, because they apply to too few users of the first window": list(left_out),
    }
    return " ".join(f"{key}: {', '.join(names)}." for key, names in notes.items() if names)


def _compare(then: Floats, now: Floats, tolerance: float, log_bound: float) -> Part:
    sides = log_evidence(then, now, tolerance=tolerance)
    rise, fall = smallest_changes(
        then, num_users=len(now), tolerance=tolerance, log_bound=log_bound
    )
    return Part(
        then=then,
        now=now,
        log_e=log_mean_of_sides(sides),
        is_higher=bool(sides[0] > sides[1]),
        rise=rise,
        fall=fall,
    )


def _changes(
    before: State, parts: Mapping[str, Part], log_bound: float, end: datetime
) -> tuple[Change, ...]:
    """Return all changes: one begins at the bound, and ends without evidence or comparison."""
    after = [
        replace(each, until=end)
        if each.until is None and (each.part not in parts or parts[each.part].log_e <= 0)
        else each
        for each in before.changes
    ]
    begun = [
        Change(part=name, is_higher=each.is_higher, since=end)
        for name, each in parts.items()
        if each.log_e >= log_bound and name not in before.open
    ]
    return (*after, *begun)
