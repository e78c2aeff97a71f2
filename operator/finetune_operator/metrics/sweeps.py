"""Metrics of FineTuneSweeps: gauges counted from the cache at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_operator.controllers.memory.sweeps import Sweeps


def _gauges() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(
            "finetune_sweeps", "FineTuneSweeps by phase.", labels=["namespace", "phase"]
        ),
        GaugeMetricFamily(
            "finetune_sweep_trials",
            "Trials of FineTuneSweeps by state.",
            labels=["namespace", "state"],
        ),
    )


class SweepMetrics(Collector):
    """Counts FineTuneSweeps and their trials. Event loop only."""

    def __init__(self, sweeps: Sweeps, registry: CollectorRegistry) -> None:
        self._sweeps = sweeps
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the gauges without counting."""
        yield from _gauges()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count all sweeps by what their statuses say."""
        sweeps: Counter[tuple[str, str]] = Counter()
        trials: Counter[tuple[str, str]] = Counter()
        for sweep in self._sweeps.informer.store.objects():
            namespace, status = sweep["metadata"]["namespace"], sweep.get("status") or {}
            sweeps[namespace, str(status.get("phase") or "Pending")] += 1
            counts = status.get("counts") or {}
            for state in ("running", "trained", "pruned", "failed"):
                trials[namespace, state] += int(counts.get(state) or 0)
        by_phase, by_state = _gauges()
        for labels, number in sweeps.items():
            by_phase.add_metric(labels, number)
        for labels, number in trials.items():
            by_state.add_metric(labels, number)
        yield from (by_phase, by_state)
