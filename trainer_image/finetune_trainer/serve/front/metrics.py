"""Metrics of the front, under the names of OpenTelemetry's GenAI conventions where they exist.

Series of a version are removed when it leaves the rotation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from finetune_trainer.serve.front.routes import Served

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(float(4**power) for power in range(9))
# Not `endpoint`: scrapes of the Prometheus operator put the name of the port there.
_VERSION = ("finetuneendpoint", "version")
MAX_KEYS = 100
"""Names of keys with series of their own, at each endpoint, as long as the process runs."""
OTHER = "<other>"
_PLAIN_KEY = re.compile(r"[-._a-zA-Z0-9]{0,63}\Z")
_LABELS = ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_response_model")


def shown_key(key: str) -> str:
    """Return the name of a key; `<other>` for one that is long or holds other characters."""
    return key if _PLAIN_KEY.match(key) else OTHER


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
            "Bad answers by signal (errors, slow, refusals, invalidJson).",
            "signal",
        )
        self._key_requests = Counter(
            "finetune_front_key_requests",
            "Requests by endpoint, name of the key and HTTP status.",
            ("finetuneendpoint", "key", "code"),
            registry=registry,
        )
        self._key_tokens = Counter(
            "finetune_front_key_tokens",
            "Tokens by endpoint and name of the key, estimated where the client left early.",
            ("finetuneendpoint", "key", "gen_ai_token_type"),
            registry=registry,
        )
        self._dropped = Counter(
            "finetune_front_capture_dropped",
            "Answers that should have been captured and were not, by reason.",
            ("finetuneendpoint", "reason"),
            registry=registry,
        )
        self._fields = Counter(
            "finetune_front_dropped_fields",
            "Fields of requests that were dropped, because the front does not know them.",
            ("finetuneendpoint",),
            registry=registry,
        )
        self._unread = Gauge(
            "finetune_front_unread_keys",
            "Files of a Secret with keys that are not read: it has too many, or they are too long.",
            ("secret",),
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
        self._keys: dict[str, set[str]] = {}
        """Names of keys of each endpoint that have series."""

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

    def count_bad(self, endpoint: str, version: str, signal: str) -> None:
        """Count a bad answer."""
        self._signals.labels(endpoint, version, signal).inc()

    def count_key(
        self, endpoint: str, key: str, code: int, num_input: int, num_output: int
    ) -> None:
        """Count a request of a key, and its tokens."""
        known, key = self._keys.setdefault(endpoint, set()), shown_key(key)
        if len(known) >= MAX_KEYS and key not in known:
            key = OTHER
        known.add(key)
        self._key_requests.labels(endpoint, key, str(code)).inc()
        self._key_tokens.labels(endpoint, key, "input").inc(num_input)
        self._key_tokens.labels(endpoint, key, "output").inc(num_output)

    def drop_capture(self, endpoint: str, reason: str, number: int = 1) -> None:
        """Count answers that are not captured although they should be."""
        self._dropped.labels(endpoint, reason).inc(number)

    def drop_fields(self, endpoint: str, number: int) -> None:
        """Count fields of a request that are dropped."""
        self._fields.labels(endpoint).inc(number)

    def show_unread(self, secret: str, number: int | None) -> None:
        """Show how many files of keys are not read; None forgets the Secret."""
        if number is None:
            self._unread.remove(secret)
        else:
            self._unread.labels(secret).set(number)

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
        for counter in (self._requests, self._signals):
            counter.remove_by_labels(by_version)
        if gone is None:
            for counter in (self._dropped, self._fields, self._key_requests, self._key_tokens):
                counter.remove_by_labels(by_version)
            self._keys.pop(endpoint, None)
            self.show_weights(endpoint, {})
            del self._shown[endpoint]
        # Others find their series again.
        self._series.clear()
        self._codes.clear()
