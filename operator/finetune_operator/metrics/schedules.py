"""Metrics of FineTuneSchedules: gauges that are read from their statuses at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_operator.finetunejob.state.waiting import bounded_reason
from finetune_operator.finetuneschedule.cron import Times
from finetune_operator.finetuneschedule.cycles import WITHOUT_VERSION
from finetune_operator.finetuneschedule.observed import schedule_of
from finetune_operator.kube.api.resource import Object, key_of
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import Clock
from finetune_operator.metrics.census import MAX_WAITING, keep_longest
from finetune_operator.status.conditions import (
    ConditionType,
    Reason,
    find_condition,
    parse_timestamp,
    timestamp,
)

MIN_IN_VAIN = 2
"""Cycles in a row that count as a delay. A failed job counts at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delay:
    """What a schedule waits for, or why it brings no version.

    Attributes:
        state: Stalled, Missed, InVain, or what the cycle under way waits for: Job or Traffic.
        reason: Reason or outcome, as one of a fixed set of words.
        since: When it began.
    """

    state: str
    reason: str
    since: datetime


def find_delay(schedule: Object, now: datetime) -> Delay | None:
    """Return the gravest delay that the status of a schedule tells. Pure."""
    status = schedule.get("status") or {}
    conditions = status.get("conditions")

    def delay(state: str, reason: str, since: object) -> Delay:
        return Delay(state=state, reason=reason, since=parse_timestamp(str(since)) or now)

    stalled = find_condition(conditions, ConditionType.STALLED) or {}
    ready = find_condition(conditions, ConditionType.READY) or {}
    for found, is_so in (
        (stalled, stalled.get("status") == "True"),
        (ready, ready.get("reason") == Reason.ENDPOINT_NOT_FOUND),
    ):
        if is_so:
            return delay("Stalled", bounded_reason(found), found.get("lastTransitionTime"))
    active = status.get("active")
    if active and (missed := _second_missed(schedule, now)) is not None:
        return delay("Missed", active["waitsFor"], timestamp(missed))
    ended = list(reversed(status.get("history") or ()))
    vain = list(takewhile(lambda each: each["outcome"] in WITHOUT_VERSION, ended))
    if (
        vain
        and not schedule["spec"].get("suspend")
        and (len(vain) >= MIN_IN_VAIN or vain[0]["outcome"] == "Failed")
    ):
        return delay("InVain", vain[0]["outcome"], vain[-1]["endTime"])
    if active:
        return delay(active["waitsFor"], active["trigger"], active["time"])
    return None


def _second_missed(schedule: Object, now: datetime) -> datetime | None:
    """Return the second start by the cron table since the cycle under way began, if it is over."""
    triggers = schedule["spec"]["triggers"]
    begin = parse_timestamp(schedule["status"]["active"]["time"])
    times = Times(table=triggers.get("cron") or "", zone=triggers.get("timeZone") or "UTC")
    if begin is None or "cron" not in triggers or times.problem:
        return None
    found = next(islice(times.after(begin), 1, None), None)
    return found if found is not None and found <= now else None


def _gauges() -> tuple[GaugeMetricFamily, ...]:
    return (
        GaugeMetricFamily(
            "finetune_schedules", "FineTuneSchedules by reason.", labels=["namespace", "reason"]
        ),
        GaugeMetricFamily(
            "finetune_schedule_waiting_seconds",
            "How long single schedules have brought no version, by state. At most 100 schedules in"
            " each state.",
            labels=["namespace", "finetuneschedule", "state", "reason"],
        ),
        GaugeMetricFamily(
            "finetune_schedule_jobs",
            "FineTuneJobs of single schedules. At most 100 schedules: those with most jobs.",
            labels=["namespace", "finetuneschedule"],
        ),
    )


class ScheduleMetrics(Collector):
    """Counts FineTuneSchedules and their FineTuneJobs. Event loop only."""

    def __init__(
        self, schedules: Store, jobs: Store, registry: CollectorRegistry, *, clock: Clock
    ) -> None:
        self._schedules = schedules
        self._jobs = jobs
        self._clock = clock
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the gauges without counting."""
        yield from _gauges()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count all schedules by what their statuses say."""
        found = self._schedules.objects()
        by_reason, waiting, jobs = _gauges()
        counts = Counter(
            (each["metadata"]["namespace"], bounded_reason(each.get("status") or {}))
            for each in found
        )
        for labels, number in counts.items():
            by_reason.add_metric(labels, number)
        for seconds, told in self._longest(found):
            waiting.add_metric(told, seconds)
        made = Counter(filter(None, map(schedule_of, self._jobs.objects())))
        for key, number in made.most_common(MAX_WAITING):
            jobs.add_metric(key, number)
        yield from (by_reason, waiting, jobs)

    def _longest(self, schedules: Iterable[Object]) -> list[tuple[float, tuple[str, ...]]]:
        now = self._clock.now()
        found = []
        for schedule in schedules:
            if (each := find_delay(schedule, now)) is not None:
                seconds = max(0.0, (now - each.since).total_seconds())
                found.append((seconds, (*key_of(schedule), each.state, each.reason)))
        return keep_longest(found, state=lambda each: each[1][2], seconds=lambda each: each[0])
