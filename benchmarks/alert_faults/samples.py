"""What an operator's ``/metrics`` said over time, as Prometheus would have kept it.

One sample per series and interval. A target that does not answer, or a series that it no longer
tells, gets a staleness marker, as Prometheus writes one; labels of the target give way to those
of the metric (``honorLabels`` of the chart's ServiceMonitor).
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

STALE = "stale"
NOTHING = "_"

Series = str
"""A series in Prometheus' own notation: ``name{label="value",...}``."""


@dataclass(kw_only=True)
class Samples:
    """Scrapes of one target, on a grid of equal intervals from 0.

    Attributes:
        target: Labels that Prometheus knows the target by.
        metrics: Names of the metrics that are kept.
        start: When the grid begins, as Unix time of the operator's clock.
        interval_seconds: Width of the grid.
    """

    target: Mapping[str, str]
    metrics: Container[str]
    start: float
    interval_seconds: float
    _values: dict[Series, dict[int, str]] = field(default_factory=dict)
    _last: int = -1

    def index_at(self, timestamp: float) -> int:
        """Return the interval that a time falls into, to the nearest."""
        return round((timestamp - self.start) / self.interval_seconds)

    def take(self, text: str | None, timestamp: float) -> None:
        """Keep one scrape.

        Args:
            text: The answer; None if there was none.
            timestamp: When it was asked for, by the operator's clock.
        """
        index = self.index_at(timestamp)
        if index < 0:
            return
        found = {} if text is None else self._read(text)
        for series, value in found.items():
            self._values.setdefault(series, {})[index] = value
        for series, values in self._values.items():
            if series not in found and values[max(values)] != STALE:
                values[index] = STALE
        self._last = max(self._last, index)

    @property
    def seconds(self) -> float:
        """From the start to the last scrape."""
        return self._last * self.interval_seconds

    def to_input_series(self) -> list[dict[str, str]]:
        """Return all series as promtool's ``input_series``."""
        return [
            {
                "series": series,
                "values": " ".join(values.get(index, NOTHING) for index in range(self._last + 1)),
            }
            for series, values in sorted(self._values.items())
        ]

    def _read(self, text: str) -> dict[Series, str]:
        found: dict[Series, str] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in self.metrics and not math.isnan(sample.value):
                    series = name_series(sample.name, {**self.target, **sample.labels})
                    found[series] = show_number(sample.value)
        return found


def name_series(name: str, labels: Mapping[str, str]) -> Series:
    """Return a series in Prometheus' notation."""
    escaped = {
        key: text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for key, text in labels.items()
    }
    inside = ",".join(f'{key}="{text}"' for key, text in sorted(escaped.items()))
    return f"{name}{{{inside}}}"


def show_number(value: float) -> str:
    """Return a number without an exponent, which promtool's notation lacks."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
