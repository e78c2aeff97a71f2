"""Prometheus metrics of the runtime, under the names of client-go and controller-runtime.

Existing dashboards and alerts work with them. Only ``rest_client_resource_requests_total`` is new,
because client-go does not split requests by resource.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_QUEUE_BUCKETS = (1e-4, 1e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_REQUEST_BUCKETS = (5e-3, 2.5e-2, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)


class KubeMetrics:
    """All metrics of one runtime, in one registry; a fresh registry by default."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, registry=self.registry, buckets=buckets)

        self.requests = counter(
            "rest_client_requests_total",
            "HTTP requests by status code and method; code is '<error>' without an answer.",
            "code",
            "method",
        )
        self.request_seconds = histogram(
            "rest_client_request_duration_seconds",
            "Time from sending a request to having read its answer.",
            _REQUEST_BUCKETS,
            "verb",
        )
        self.rate_limiter_seconds = counter(
            "rest_client_rate_limiter_wait_seconds_total",
            "Time requests waited for the client's own token bucket.",
        )
        self.resource_requests = counter(
            "rest_client_resource_requests_total",
            "Requests by RBAC verb and resource (resource/subresource).",
            "verb",
            "group",
            "resource",
        )
        self.queue_depth = gauge("workqueue_depth", "Keys waiting for a worker.", "name")
        self.queue_adds = counter("workqueue_adds_total", "Keys added.", "name")
        self.queue_retries = counter("workqueue_retries_total", "Keys added with back-off.", "name")
        self.queue_seconds = histogram(
            "workqueue_queue_duration_seconds",
            "Time a key waited for a worker.",
            _QUEUE_BUCKETS,
            "name",
        )
        self.work_seconds = histogram(
            "workqueue_work_duration_seconds", "Time a worker held a key.", _QUEUE_BUCKETS, "name"
        )
        self.unfinished_seconds = gauge(
            "workqueue_unfinished_work_seconds", "Sum of the ages of keys being worked on.", "name"
        )
        self.longest_running_seconds = gauge(
            "workqueue_longest_running_processor_seconds",
            "Age of the oldest key being worked on.",
            "name",
        )
        self.reconciles = counter(
            "controller_runtime_reconcile_total", "Reconciles by result.", "controller", "result"
        )
        self.reconcile_errors = counter(
            "controller_runtime_reconcile_errors_total", "Reconciles that failed.", "controller"
        )
        self.reconcile_panics = counter(
            "controller_runtime_reconcile_panics_total",
            "Reconciles that ended in an unexpected exception (a bug).",
            "controller",
        )
        self.reconcile_seconds = histogram(
            "controller_runtime_reconcile_time_seconds",
            "Time of one reconcile.",
            _QUEUE_BUCKETS,
            "controller",
        )
        self.max_workers = gauge(
            "controller_runtime_max_concurrent_reconciles", "Workers.", "controller"
        )
        self.active_workers = gauge(
            "controller_runtime_active_workers", "Workers busy now.", "controller"
        )
        self.leader = gauge(
            "leader_election_master_status", "1 while this process holds the lease.", "name"
        )
        self.lists = counter("reflector_lists_total", "Full lists started.", "name")
        self.watches = counter("reflector_watches_total", "Watches started.", "name")
        self.watch_errors = counter(
            "reflector_watch_errors_total", "Lists and watches that failed.", "name", "error"
        )
        self.ghosts = counter(
            "reflector_ghosts_total", "Objects found gone without a DELETED event.", "name"
        )
        self._cached_objects = gauge("informer_cached_objects", "Objects in the caches.", "name")
        self._synced = gauge(
            "informer_synced", "1 once the caches have been complete, or must do as is.", "name"
        )
        self._lengths: dict[str, list[Callable[[], int]]] = defaultdict(list)
        self._syncs: dict[str, list[Callable[[], bool]]] = defaultdict(list)
        self.status_writes = counter(
            "status_writes_total", "Status writes by outcome: written, unchanged.", "outcome"
        )
        self.status_rejections = counter(
            "status_writes_rejected_total",
            "Status writes that the API server refused, by kind and by section of the status.",
            "kind",
            "section",
        )
        self.rejected_writes = counter(
            "rest_client_rejected_writes_total",
            "Writes that the API server calls invalid (422), by RBAC verb and resource.",
            "verb",
            "resource",
        )
        self.recorded_events = counter(
            "event_recorder_total",
            "Events by outcome: created, aggregated, dropped.",
            "outcome",
        )

    def add_cache(
        self, name: str, num_objects: Callable[[], int], is_synced: Callable[[], bool]
    ) -> None:
        """Export a cache of a kind. A kind counts as synced once all its caches are."""
        lengths, syncs = self._lengths[name], self._syncs[name]
        lengths.append(num_objects)
        syncs.append(is_synced)
        self._cached_objects.labels(name).set_function(lambda: sum(each() for each in lengths))
        self._synced.labels(name).set_function(lambda: all(each() for each in syncs))
