"""Metrics of the recorder."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

_ENDPOINT = "finetuneendpoint"


class Metrics:
    """All metrics of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._stored = Counter(
            "finetune_recorder_rows",
            "Captured answers written to object storage.",
            [_ENDPOINT],
            registry=registry,
        )
        self._dropped = Counter(
            "finetune_recorder_dropped",
            "Captured answers that were not stored, by reason.",
            [_ENDPOINT, "reason"],
            registry=registry,
        )
        self._failures = Counter(
            "finetune_recorder_storage_failures",
            "Failed writes and sweeps, by reason. Rows that were not written are tried again.",
            [_ENDPOINT, "reason"],
            registry=registry,
        )
        self._deletions = Counter(
            "finetune_recorder_deletions",
            "Deletions that were asked for: of one answer, or of the answers of a user.",
            [_ENDPOINT, "of"],
            registry=registry,
        )
        self._removed = Counter(
            "finetune_recorder_deleted_rows",
            "Captured answers that were removed because somebody asked for it.",
            [_ENDPOINT],
            registry=registry,
        )
        self._spool = Gauge(
            "finetune_recorder_spool_bytes",
            "Bytes of captured answers that wait for object storage.",
            registry=registry,
        )

    def store(self, endpoint: str, num_rows: int) -> None:
        """Count rows that were stored."""
        self._stored.labels(endpoint).inc(num_rows)

    def drop(self, endpoint: str, reason: str, num_rows: int = 1) -> None:
        """Count rows that are lost."""
        self._dropped.labels(endpoint, reason).inc(num_rows)

    def fail(self, endpoint: str, reason: str) -> None:
        """Count a failure of the storage."""
        self._failures.labels(endpoint, reason).inc()

    def ask_deletion(self, endpoint: str, of: str) -> None:
        """Count a request to delete an answer, or the answers of a user."""
        self._deletions.labels(endpoint, of).inc()

    def remove(self, endpoint: str, num_rows: int) -> None:
        """Count rows that were removed because somebody asked for it."""
        self._removed.labels(endpoint).inc(num_rows)

    def show_spool(self, num_bytes: int) -> None:
        """Show how much waits."""
        self._spool.set(num_bytes)
