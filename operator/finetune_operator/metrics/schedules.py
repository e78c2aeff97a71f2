"""Metrics of FineTuneSchedules: gauges that are read from their statuses at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_operator.finetunejob.state.waiting import bounded_reason
from finetune_operator.kube.api.resource import Object, key_of
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import Clock
from finetune_operator.metrics.census import keep_longest
from finetune_operator.status.conditions import (
    ConditionType,
    Reason,
    find_condition,
    parse_timestamp,
)

_IN_VAIN = ("Failed", "NotPublished", "Refused", "RolledBack")
"""Outcomes of cycles that have trained, and brought no version."""
MIN_IN_VAIN = 2
"""Cycles in a row that count as a delay. A failed job counts at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delay:
    """What a schedule waits for, or why it brings no version.

    Attributes:
        state: Stalled, InVain, or what the cycle under way waits for: Job or Traffic.
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
    ended = list(reversed(status.get("history") or ()))
    vain = list(takewhile(lambda each: each["outcome"] in _IN_VAIN, ended))
    if vain and (len(vain) >= MIN_IN_VAIN or vain[0]["outcome"] == "Failed"):
        return delay("InVain", vain[0]["outcome"], vain[-1]["endTime"])
    if active := status.get("active"):
        return delay(active["waitsFor"], active["trigger"], active["time"])
    return None


def _gauges() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
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
    )


class ScheduleMetrics(Collector):
    """Counts FineTuneSchedules. Event loop only."""

    def __init__(self, schedules: Store, registry: CollectorRegistry, *, clock: Clock) -> None:
        self._schedules = schedules
        self._clock = clock
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the gauges without counting."""
        yield from _gauges()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count all schedules by what their statuses say."""
        found = self._schedules.objects()
        by_reason, waiting = _gauges()
        counts = Counter(
            (each["metadata"]["namespace"], bounded_reason(each.get("status") or {}))
            for each in found
        )
        for labels, number in counts.items():
            by_reason.add_metric(labels, number)
        for seconds, told in self._longest(found):
            waiting.add_metric(told, seconds)
        yield from (by_reason, waiting)

    def _longest(self, schedules: Iterable[Object]) -> list[tuple[float, tuple[str, ...]]]:
        now = self._clock.now()
        found = []
        for schedule in schedules:
            if (each := find_delay(schedule, now)) is not None:
                seconds = max(0.0, (now - each.since).total_seconds())
                found.append((seconds, (*key_of(schedule), each.state, each.reason)))
        return keep_longest(found, state=lambda each: each[1][2], seconds=lambda each: each[0])
