"""Metrics of FineTuneSweeps: gauges counted from the cache at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_operator.controllers.memory.sweeps import Sweeps
from finetune_operator.finetunesweep.trials.standstill import find_standstill
from finetune_operator.kube.api.resource import Object, key_of
from finetune_operator.kube.clock import Clock
from finetune_operator.metrics.census import WAITING_SECONDS, keep_longest


def _gauges() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(
            "finetune_sweeps", "FineTuneSweeps by phase.", labels=["namespace", "phase"]
        ),
        GaugeMetricFamily(
            "finetune_sweep_trials",
            "Trials of FineTuneSweeps by state.",
            labels=["namespace", "state"],
        ),
        GaugeMetricFamily(
            "finetune_sweep_waiting_seconds",
            "How long single sweeps have made no headway: no trial has begun, reported or ended."
            " Five minutes and more, at most 100 sweeps for"
            " each reason.",
            labels=["namespace", "finetunesweep", "reason"],
        ),
    )


class SweepMetrics(Collector):
    """Counts FineTuneSweeps and their trials. Event loop only."""

    def __init__(self, sweeps: Sweeps, registry: CollectorRegistry, *, clock: Clock) -> None:
        self._sweeps = sweeps
        self._clock = clock
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the gauges without counting."""
        yield from _gauges()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count all sweeps by what their statuses say, and look for those that stand still."""
        found = self._sweeps.informer.store.objects()
        sweeps: Counter[tuple[str, str]] = Counter()
        trials: Counter[tuple[str, str]] = Counter()
        for sweep in found:
            namespace, status = sweep["metadata"]["namespace"], sweep.get("status") or {}
            sweeps[namespace, str(status.get("phase") or "Pending")] += 1
            counts = status.get("counts") or {}
            for state in ("running", "trained", "pruned", "failed"):
                trials[namespace, state] += int(counts.get(state) or 0)
        by_phase, by_state, waiting = _gauges()
        for labels, number in sweeps.items():
            by_phase.add_metric(labels, number)
        for labels, number in trials.items():
            by_state.add_metric(labels, number)
        for seconds, namespace, name, reason in self._longest_standstills(found):
            waiting.add_metric((namespace, name, reason), seconds)
        yield from (by_phase, by_state, waiting)

    def _longest_standstills(self, sweeps: Iterable[Object]) -> list[tuple[float, str, str, str]]:
        """Return seconds, namespace, name and reason of sweeps that stand still, as jobs' waits."""
        found: list[tuple[float, str, str, str]] = []
        for sweep in sweeps:
            key = key_of(sweep)
            each = find_standstill(sweep, self._sweeps.trials_of(key), self._clock.now())
            if each is not None and each.seconds >= WAITING_SECONDS:
                found.append((each.seconds, *key, each.reason))
        return keep_longest(found, state=lambda each: each[3], seconds=lambda each: each[0])
