"""Every metric that operator, front, recorder and agent export, with its labels, from the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

from prometheus_client import CollectorRegistry

from finetune_operator.kube.clock import SystemClock
from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.metrics.endpoints import EndpointMetrics
from finetune_operator.metrics.jobs import JobMetrics
from finetune_operator.metrics.schedules import ScheduleMetrics
from finetune_operator.metrics.sweeps import SweepMetrics
from finetune_operator.progress.endpoint import ProgressEndpoint
from finetune_trainer.serve.agent.report import PASSED_METRICS, Reporter
from finetune_trainer.serve.front.metrics import Metrics
from finetune_trainer.serve.recorder.metrics import Metrics as RecorderMetrics

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
TARGET = frozenset({"namespace", "service", "pod", "container", "job"})
"""Labels that Prometheus adds."""
OTHERS = {
    # Made with a certificate only.
    "finetune_progress_certificate_expiry_timestamp_seconds": frozenset(),
    # The kubelet's, and Prometheus' own.
    "container_memory_working_set_bytes": frozenset({"container"}),
    "up": frozenset(),
}


def exported_metrics() -> dict[str, frozenset[str]]:
    """Return the labels of each metric, those of its target included, by the name in queries."""
    found = {name: labels | TARGET for name, labels in OTHERS.items()}
    found |= {name: TARGET | {"model_name"} for name in PASSED_METRICS}
    for registry in (_operators(), _fronts(), _recorders(), _agents()):
        for family in _families(registry):
            kind, name = family._type, family._name
            labels = TARGET | set(family._labelnames)
            for suffix in SUFFIXES.get(kind, ("",)):
                found[name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def faults_of(query: str, known: dict[str, frozenset[str]]) -> set[str]:
    """Return what a query asks for in vain: metrics, and labels that none of its metrics has."""
    bare = re.sub(r'"[^"]*"', '""', query)
    groups = re.compile(r"\b(?:by|on) *\(([^)]*)\)")
    faults: set[str] = set()
    had: set[str] = set()
    for name, selector in _selections(groups.sub("", bare)):
        labels = known.get(name, frozenset())
        had |= labels
        asked = set(re.findall(r"(\w+) *(?:=~|!~|!=|=)", selector)) - labels
        faults |= {f"{name}{{{label}}}" for label in asked} if name in known else {name}
    grouped = {label.strip() for inner in groups.findall(bare) for label in inner.split(",")}
    return faults | (grouped - had)


def _selections(query: str) -> Iterator[tuple[str, str]]:
    """Return each metric of a query with its selector; functions are followed by a parenthesis."""
    for found in re.finditer(r"\b([a-z]\w*[_:]\w+|up)\b(?! *\()(?: *\{([^}]*)\})?", query):
        if "{" not in query[: found.start()].rpartition("}")[2]:
            yield found[1], found[2] or ""


def _families(registry: CollectorRegistry) -> list[Any]:
    """Return collectors that know their labels; those of gauges that are counted at each scrape."""
    found: list[Any] = []
    for collector in registry._collector_to_names:
        if hasattr(collector, "_labelnames"):
            found.append(collector)
        else:
            found += [_Described(family) for family in collector.describe()]  # type: ignore[attr-defined]
    return found


class _Described:
    def __init__(self, family: Any) -> None:
        self._type, self._name = family.type, family.name
        self._labelnames = family._labelnames


def _operators() -> CollectorRegistry:
    registry, clock = CollectorRegistry(), SystemClock()
    KubeMetrics(registry)
    JobMetrics(MagicMock(), registry, clock=clock, is_leader=lambda: False, expects_progress=True)
    SweepMetrics(MagicMock(), registry)
    EndpointMetrics(MagicMock(), registry, clock=clock)
    ScheduleMetrics(MagicMock(), MagicMock(), registry, clock=clock)
    ProgressEndpoint(MagicMock(), MagicMock(), MagicMock(), clock=clock, registry=registry)
    return registry


def _recorders() -> CollectorRegistry:
    return RecorderMetrics(CollectorRegistry()).registry


def _fronts() -> CollectorRegistry:
    return Metrics(CollectorRegistry()).registry


def _agents() -> CollectorRegistry:
    return Reporter(
        boot_id="", server="", engine=MagicMock(), keeper=MagicMock(), decisions=MagicMock()
    ).registry
