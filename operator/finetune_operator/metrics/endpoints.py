"""Metrics of FineTuneEndpoints: gauges that are read from their statuses at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_operator.finetunejob.state.waiting import bounded_reason
from finetune_operator.kube.api.resource import Object, key_of
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import Clock
from finetune_operator.metrics.census import keep_longest
from finetune_operator.status.conditions import (
    MOVE_REASONS,
    ConditionType,
    Reason,
    find_condition,
    parse_timestamp,
)

_LABELS = ("namespace", "finetuneendpoint", "version", "state", "reason")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """What keeps an endpoint from answering with the version that is wanted.

    Attributes:
        state: NotAvailable, MoveFailed, Incomplete, Stalled, Refused, RolledBack, NotRecorded,
            Verifying or RollingOut.
        reason: Reason of the condition that says so, as one of a fixed set of words.
        version: The version that this is about; empty if there is none.
        since: When it began.
    """

    state: str
    reason: str
    version: str
    since: datetime


def find_trouble(endpoint: Object, now: datetime) -> Trouble | None:
    """Return the gravest trouble that the status of an endpoint tells. Pure."""
    status = endpoint.get("status") or {}

    def condition(kind: str) -> Object:
        return find_condition(status.get("conditions"), kind) or {}

    def trouble(state: str, source: Object, version: object, since: object = None) -> Trouble:
        begun = parse_timestamp(str(since or source.get("lastTransitionTime") or ""))
        number = str(version) if version else ""
        reason = bounded_reason(source)
        return Trouble(state=state, reason=reason, version=number, since=begun or now)

    active, candidate = status.get("active") or {}, status.get("candidate") or {}
    rejected = (status.get("rejected") or [{}])[-1].get("version")
    available, degraded = condition(ConditionType.AVAILABLE), condition(ConditionType.DEGRADED)
    stalled, verified = condition(ConditionType.STALLED), condition(ConditionType.VERIFIED)
    is_degraded = degraded.get("status") == "True"
    if active and available.get("status") == "False":
        return trouble("NotAvailable", available, active.get("version"))
    if is_degraded and degraded.get("reason") == Reason.PODS_REFUSE:
        return trouble("Incomplete", degraded, active.get("version"))
    if stalled.get("status") == "True" and stalled.get("reason") in MOVE_REASONS:
        return trouble("MoveFailed", stalled, active.get("version"))
    if is_degraded and degraded.get("reason") == Reason.PODS_MISSING:
        return trouble("Incomplete", degraded, active.get("version"))
    if active and available.get("status") == "Unknown":
        return trouble("Incomplete", available, active.get("version"))
    if stalled.get("status") == "True":
        return trouble("Stalled", stalled, candidate.get("version"))
    if verified.get("status") == "False":
        return trouble("Refused", verified, candidate.get("version") or rejected)
    if is_degraded and degraded.get("reason") in (Reason.WORSE, Reason.TRIPPED):
        return trouble("RolledBack", degraded, rejected)
    recorded = condition(ConditionType.RECORDED)
    if recorded.get("status") == "False":
        return trouble("NotRecorded", recorded, active.get("version"))
    if not candidate and not active and available.get("reason") == Reason.JOB_NOT_FOUND:
        return trouble("Stalled", available, None)
    if not candidate:
        return None
    progressing = condition(ConditionType.PROGRESSING)
    if candidate.get("weight"):
        return trouble(
            "RollingOut", progressing, candidate.get("version"), candidate.get("stepTime")
        )
    return trouble("Verifying", verified, candidate.get("version"))


def find_drift(endpoint: Object, now: datetime) -> tuple[str, datetime] | None:
    """Return the signal that has changed, and since when that is known; None if none has. Pure."""
    conditions = (endpoint.get("status") or {}).get("conditions")
    found = find_condition(conditions, ConditionType.DRIFTED) or {}
    if found.get("status") != "True":
        return None
    return bounded_reason(found), parse_timestamp(found.get("lastTransitionTime")) or now


def find_gap(endpoint: Object) -> float | None:
    """Return how far the whole interval of live quality is below the goal; None if it is not."""
    quality = ((endpoint.get("status") or {}).get("monitor") or {}).get("quality") or {}
    if not (quality.get("goal") and quality.get("high")):
        return None
    gap = float(quality["goal"]) - float(quality["high"])
    return gap if gap > 0 else None


def _gauges() -> tuple[GaugeMetricFamily, ...]:
    return (
        GaugeMetricFamily(
            "finetune_endpoints", "FineTuneEndpoints by phase.", labels=["namespace", "phase"]
        ),
        GaugeMetricFamily(
            "finetune_endpoint_waiting_seconds",
            "How long single endpoints have not answered with the version that is wanted, by state"
            " and version. At most 100 endpoints in each state.",
            labels=_LABELS,
        ),
        GaugeMetricFamily(
            "finetune_endpoint_drifted_seconds",
            "Since when an endpoint's traffic is known to have changed, by the signal that has. At"
            " most 100 endpoints of each signal.",
            labels=("namespace", "finetuneendpoint", "signal"),
        ),
        GaugeMetricFamily(
            "finetune_endpoint_below_goal_ratio",
            "How far the whole interval of live quality is below the goal. At most 100 endpoints:"
            " those that are farthest.",
            labels=("namespace", "finetuneendpoint"),
        ),
    )


class EndpointMetrics(Collector):
    """Counts FineTuneEndpoints. Event loop only."""

    def __init__(self, endpoints: Store, registry: CollectorRegistry, *, clock: Clock) -> None:
        self._endpoints = endpoints
        self._clock = clock
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the gauges without counting."""
        yield from _gauges()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count all endpoints by what their statuses say."""
        found = self._endpoints.objects()
        by_phase, waiting, drifted, below = _gauges()
        phases = Counter(
            (
                each["metadata"]["namespace"],
                str((each.get("status") or {}).get("phase") or "Pending"),
            )
            for each in found
        )
        for phase, number in phases.items():
            by_phase.add_metric(phase, number)
        for seconds, labels in self._longest(found):
            waiting.add_metric(labels, seconds)
        for seconds, labels in self._drifted(found):
            drifted.add_metric(labels, seconds)
        gaps = [(gap, key_of(each)) for each in found if (gap := find_gap(each)) is not None]
        for gap, key in keep_longest(gaps, state=lambda _: "", seconds=lambda each: each[0]):
            below.add_metric(key, gap)
        yield from (by_phase, waiting, drifted, below)

    def _drifted(self, endpoints: Iterable[Object]) -> list[tuple[float, tuple[str, ...]]]:
        """Return seconds and labels of endpoints whose traffic has changed."""
        now = self._clock.now()
        found = []
        for endpoint in endpoints:
            if (each := find_drift(endpoint, now)) is not None:
                labels = (*key_of(endpoint), each[0])
                found.append((max(0.0, (now - each[1]).total_seconds()), labels))
        return keep_longest(found, state=lambda each: each[1][2], seconds=lambda each: each[0])

    def _longest(self, endpoints: Iterable[Object]) -> list[tuple[float, tuple[str, ...]]]:
        """Return seconds and labels of endpoints in trouble."""
        now = self._clock.now()
        found = []
        for endpoint in endpoints:
            if (each := find_trouble(endpoint, now)) is not None:
                labels = (*key_of(endpoint), each.version, each.state, each.reason)
                found.append((max(0.0, (now - each.since).total_seconds()), labels))
        return keep_longest(found, state=lambda each: each[1][3], seconds=lambda each: each[0])
