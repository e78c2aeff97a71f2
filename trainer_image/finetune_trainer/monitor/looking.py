"""One look at an endpoint's traffic: evidence before and new rows in, evidence after out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_api.v1alpha1.status.traffic import QualityStatus
from finetune_trainer.monitor.evidence import Evidence, begin_evidence
from finetune_trainer.monitor.reference import Reference, count_bins
from finetune_trainer.monitor.spans import MAX_ANSWERS
from finetune_trainer.monitor.users import Tally, UserRow
from finetune_trainer.statistics.confidence import Floats
from finetune_trainer.statistics.drift import log_alarm_bound, log_growth_of_look

YEAR = timedelta(days=365)
NUM_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How an endpoint is monitored, as ``spec.monitor`` has it.

    Attributes:
        every: From one look to the next, at least.
        false_alarms_per_year: Most that are expected.
        min_answers: Answers that make a look; with fewer they wait for the next one.
        max_answers: Answers that a look reads.
    """

    every: timedelta = timedelta(hours=1)
    false_alarms_per_year: float = 1.0
    min_answers: int = 200
    max_answers: int = MAX_ANSWERS

    @property
    def log_bound(self) -> float:
        """Logarithm of the evidence at which the alarm rings."""
        return log_alarm_bound(
            looks_per_year=YEAR / self.every, false_alarms_per_year=self.false_alarms_per_year
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A signal in one look.

    Attributes:
        mean: Over users; None if the signal applies to nobody.
        num_users: To whom it applies.
        bins: How many users have which number.
    """

    mean: float | None
    num_users: int
    bins: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a look found.

    Attributes:
        seen: By signal; empty if there were too few answers.
        num_waiting: Answers that wait for the next look.
        part: The part of a signal with the most evidence; empty if none has any.
        examples: Response ids of the answers that are furthest from the reference in it.
        quality: What people and the judge say; None if nobody is asked.
    """

    evidence: Evidence
    seen: Mapping[str, Seen]
    num_waiting: int = 0
    part: str = ""
    examples: tuple[str, ...] = ()
    quality: QualityStatus | None = None


def look_at(
    rows: Iterable[UserRow],
    reference: Reference,
    before: Evidence | None,
    settings: Settings,
    *,
    begin: datetime,
    end: datetime,
) -> Look:
    """Look at the traffic of some time.

    Args:
        rows: Answers of this time. They are read once, and not kept.
        reference: What they are compared with.
        before: Evidence of earlier looks. That against another reference is not used.
        settings: How the endpoint is monitored.
        begin: Of the time: the end of the look before.
        end: Of the time, excluded.

    Raises:
        ValueError: The time overlaps with that of the look before, or is shorter than
            ``settings.every``. Answers that count twice, and looks that are not counted for, break
            the rate of false alarms.
    """
    _require_time(before, settings, begin, end)
    watched = reference.watched
    if before is None or before.reference != reference.digest:
        until = None if before is None else before.until
        before = replace(begin_evidence(reference.digest, watched), until=until)
    before = before.watching(watched)
    tally = Tally((each.signal for each in watched.values()), num_examples=NUM_EXAMPLES)
    for row in rows:
        tally.add(row)
    if tally.num_rows < settings.min_answers:
        return Look(evidence=before, seen={}, num_waiting=tally.num_rows)
    numbers = {name: tally.numbers_of(name) for name in watched}
    growths: dict[str, Floats] = {}
    for name, each in numbers.items():
        growth = log_growth_of_look(each, watched[name].limits)
        if growth is not None:
            growths[name] = growth
    after = before.after_look(
        growths, begin=begin, end=end, num_answers=tally.num_rows, log_bound=settings.log_bound
    )
    part, is_higher = _strongest(after)
    return Look(
        evidence=after,
        part=part,
        examples=tally.examples_of(part, is_higher=is_higher) if part else (),
        seen={
            name: Seen(
                mean=float(each.mean()) if len(each) else None,
                num_users=len(each),
                bins=count_bins(each),
            )
            for name, each in numbers.items()
        },
    )


def _strongest(evidence: Evidence) -> tuple[str, bool]:
    """Return the part with the most evidence and its side: after an alarm that which rang."""
    if evidence.alarms and evidence.alarms[-1].time == evidence.until:
        return evidence.alarms[-1].signal, evidence.alarms[-1].is_higher
    known = {name: each for name, each in evidence.signals.items() if each.log_e > 0}
    name = max(known, key=lambda each: known[each].log_e, default="")
    return name, bool(name) and known[name].is_higher


def _require_time(
    before: Evidence | None, settings: Settings, begin: datetime, end: datetime
) -> None:
    until = None if before is None else before.until
    if until is not None and begin < until:
        raise ValueError(
            f"answers from {begin} on would count twice: the look before ended at {until}; "
            "begin there"
        )
    if end - begin < settings.every:
        raise ValueError(
            f"a look from {begin} to {end} is shorter than monitor.every, which is "
            f"{settings.every}; wait until that has passed"
        )
