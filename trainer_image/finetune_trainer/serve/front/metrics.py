"""Metrics of the front, under the names of OpenTelemetry's GenAI conventions where they exist.

Series of a version are removed when it leaves the rotation.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from finetune_trainer.serve.front.routes import Served

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(float(4**power) for power in range(9))
_LABELS = ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_response_model")


class Series:
    """The series of one endpoint, version and operation."""

    __slots__ = ("duration", "first", "input", "output", "per_token")

    def __init__(self, metrics: Metrics, labels: tuple[str, str, str]) -> None:
        self.duration = metrics.duration.labels(*labels)
        self.first = metrics.first.labels(*labels)
        self.per_token = metrics.per_token.labels(*labels)
        self.input = metrics.tokens.labels(*labels, "input")
        self.output = metrics.tokens.labels(*labels, "output")


class Metrics:
    """All metrics of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Seconds from the request to the end of its answer.",
            _LABELS,
            buckets=_SECONDS,
            registry=registry,
        )
        self.first = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Seconds from the request to the first byte of its streamed answer.",
            _LABELS,
            buckets=_SECONDS,
            registry=registry,
        )
        self.per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Seconds for each token after the first of a streamed answer.",
            _LABELS,
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request and of its answer, where the answer tells them.",
            (*_LABELS, "gen_ai_token_type"),
            buckets=_TOKENS,
            registry=registry,
        )
        self._requests = Counter(
            "finetune_front_requests",
            "Requests by endpoint, version (empty: none was asked) and HTTP status.",
            ("endpoint", "version", "code"),
            registry=registry,
        )
        self._signals = Counter(
            "finetune_front_bad_answers",
            "Bad answers by signal (errors, slow, refusals, invalidJson); shadow: to a copy.",
            ("endpoint", "version", "signal", "shadow"),
            registry=registry,
        )
        self._shadows = Counter(
            "finetune_front_shadow_requests",
            "Copies of requests for the candidate; code is empty for those left out.",
            ("endpoint", "version", "code"),
            registry=registry,
        )
        self._series: dict[tuple[str, str, str], Series] = {}
        self._codes: dict[tuple[str, str, str], Counter] = {}

    def count(self, endpoint: str, version: str, code: int) -> None:
        """Count an answer."""
        labels = (endpoint, version, str(code))
        counter = self._codes.get(labels)
        if counter is None:
            counter = self._codes[labels] = self._requests.labels(*labels)
        counter.inc()

    def count_bad(
        self, endpoint: str, version: str, signal: str, *, is_shadow: bool = False
    ) -> None:
        """Count a bad answer."""
        self._signals.labels(endpoint, version, signal, str(is_shadow).lower()).inc()

    def count_shadow(self, endpoint: str, version: str, code: str) -> None:
        """Count a copy of a request."""
        self._shadows.labels(endpoint, version, code).inc()

    def series(self, operation: str, endpoint: str, served: Served) -> Series:
        """Return the series of a version."""
        labels = (operation, endpoint, served.adapter)
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = Series(self, labels)
        return series

    def forget(self, endpoint: str, gone: Served | None = None) -> None:
        """Remove the series of a version, or of all versions of an endpoint."""
        by_model: dict[str, str] = {"gen_ai_request_model": endpoint}
        by_version: dict[str, str] = {"endpoint": endpoint}
        if gone is not None:
            by_model["gen_ai_response_model"] = gone.adapter
            by_version["version"] = str(gone.version)
        groups: tuple[tuple[dict[str, str], tuple[MetricWrapperBase, ...]], ...] = (
            (by_model, (self.duration, self.first, self.per_token, self.tokens)),
            (by_version, (self._requests, self._signals, self._shadows)),
        )
        for labels, metrics in groups:
            for metric in metrics:
                metric.remove_by_labels(labels)
        self._series = {
            key: each
            for key, each in self._series.items()
            if key[1] != endpoint or (gone is not None and key[2] != gone.adapter)
        }
        self._codes = {
            key: each
            for key, each in self._codes.items()
            if key[0] != endpoint or (gone is not None and key[1] != str(gone.version))
        }
