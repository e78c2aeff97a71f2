"""Metrics of the front, under the names of OpenTelemetry's GenAI conventions where they exist.

Series of a version are removed when it leaves the rotation.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from finetune_trainer.serve.front.routes import Served

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(float(4**power) for power in range(9))
# Not `endpoint`: scrapes of the Prometheus operator put the name of the port there.
_VERSION = ("finetuneendpoint", "version")
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
        self.duration = self._histogram(
            "gen_ai_server_request_duration_seconds",
            "Seconds from the request to the end of its answer.",
        )
        self.first = self._histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Seconds from the request to the first byte of its streamed answer.",
        )
        self.per_token = self._histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Seconds for each token after the first of a streamed answer.",
        )
        self.tokens = self._histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request and of its answer, where the answer tells them.",
            (*_LABELS, "gen_ai_token_type"),
            _TOKENS,
        )
        self._requests = self._counter(
            "finetune_front_requests",
            "Requests by endpoint, version (empty: none was asked) and HTTP status.",
            "code",
        )
        self._signals = self._counter(
            "finetune_front_bad_answers",
            "Bad answers by signal (errors, slow, refusals, invalidJson); shadow: to a copy.",
            "signal",
            "shadow",
        )
        self._shadows = self._counter(
            "finetune_front_shadow_requests",
            "Copies of requests for the candidate; code is empty for those left out.",
            "code",
        )
        self._dropped = Counter(
            "finetune_front_capture_dropped",
            "Answers that should have been captured and were not, by reason.",
            ("finetuneendpoint", "reason"),
            registry=registry,
        )
        self._weights = Gauge(
            "finetune_front_weight_percent",
            "Share of requests that a version in rotation gets at this front.",
            _VERSION,
            registry=registry,
        )
        self._shown: dict[str, set[int]] = {}
        """Versions of each endpoint whose weight is shown."""
        self._series: dict[tuple[str, str, str], Series] = {}
        self._codes: dict[tuple[str, str, str], Counter] = {}

    def _histogram(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...] = _LABELS,
        buckets: tuple[float, ...] = _SECONDS,
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, (*_VERSION, *labels), registry=self.registry)

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

    def drop_capture(self, endpoint: str, reason: str, number: int = 1) -> None:
        """Count answers that are not captured although they should be."""
        self._dropped.labels(endpoint, reason).inc(number)

    def show_weights(self, endpoint: str, weights: Mapping[int, float]) -> None:
        """Show the share of requests of each version in rotation, in percent."""
        # Not by label: that looks at the series of all endpoints.
        for version in self._shown.get(endpoint, set()) - weights.keys():
            self._weights.remove(endpoint, str(version))
        self._shown[endpoint] = set(weights)
        for version, weight in weights.items():
            self._weights.labels(endpoint, str(version)).set(weight)

    def series(self, operation: str, endpoint: str, served: Served) -> Series:
        """Return the series of a version."""
        labels = (operation, endpoint, served.adapter)
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = Series(self, labels)
        return series

    def forget(self, endpoint: str, gone: Served | None = None) -> None:
        """Remove the series of a version, or of all versions of an endpoint."""
        by_model, by_version = {"gen_ai_request_model": endpoint}, {"finetuneendpoint": endpoint}
        if gone is not None:
            by_model["gen_ai_response_model"] = gone.adapter
            by_version["version"] = str(gone.version)
        for histogram in (self.duration, self.first, self.per_token, self.tokens):
            histogram.remove_by_labels(by_model)
        for counter in (self._requests, self._signals, self._shadows):
            counter.remove_by_labels(by_version)
        if gone is None:
            self._dropped.remove_by_labels(by_version)
            self.show_weights(endpoint, {})
            del self._shown[endpoint]
        # Others find their series again.
        self._series.clear()
        self._codes.clear()
