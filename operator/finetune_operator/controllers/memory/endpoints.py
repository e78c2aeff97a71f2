"""The caches of FineTuneEndpoints and of what serves them, and the endpoints that a change wakes.

During an upgrade a type, or the right to read it, may be missing. Then endpoints stay as they are,
and all jobs run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import cast

from finetune_api.meta import ENDPOINT_KIND, ENDPOINT_PLURAL, GROUP, VERSION
from finetune_api.names import (
    FRONT,
    MONITOR_LABEL,
    SERVING_LABEL,
    published_name,
)
from finetune_api.protocol.serving import FrontReport, ServerReport
from finetune_operator.controllers.memory.approvals import Wake
from finetune_operator.controllers.memory.reading import is_edited, warn_unreadable
from finetune_operator.controllers.memory.serving_reports import Report, ServingReports, Target
from finetune_operator.finetuneendpoint.monitoring.looks import Look, read_look
from finetune_operator.finetuneendpoint.observed import servers_of, versions_of
from finetune_operator.finetuneendpoint.trimming import (
    trim_deployment,
    trim_serving_pod,
)
from finetune_operator.finetunejob.state.observed import trim_finetunejob
from finetune_operator.finetunejob.state.trimmed import TrimmedJob, TrimmedPod, owner_uid
from finetune_operator.finetunejob.state.trimming import trim_job, trim_pod
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.resource import (
    DEPLOYMENTS,
    JOBS,
    PODS,
    Object,
    ObjectKey,
    Resource,
    key_of,
)
from finetune_operator.kube.cache.informer import Informer
from finetune_operator.kube.cache.store import EventType, Store
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.queue.workqueue import PRIORITY_CHILD, PRIORITY_USER

FINETUNEENDPOINTS = Resource(
    group=GROUP, version=VERSION, plural=ENDPOINT_PLURAL, kind=ENDPOINT_KIND
)
BY_NAMESPACE = "namespace"
BY_JOB = "job"
"""Index of endpoints by the FineTuneJob that they follow."""
BY_PUBLISHED_NAME = "published-name"
"""Index of FineTuneJobs by the name that they publish under."""
BY_MONITORED = "monitored"
"""Index of Jobs and pods by the endpoint whose answers they look at."""
BY_SERVER = "server"
"""Index of endpoints by the servers that their status names."""
REST_SECONDS = 0.05


def _by_namespace(obj: Object) -> Iterable[str]:
    return (str(obj["metadata"]["namespace"]),)


def index_by_published_name(job: Object) -> Iterable[str]:
    """Return namespace and published name of a FineTuneJob, as an index has them."""
    return (f"{job['metadata']['namespace']}/{published_name(job)}",)


def _by_job(endpoint: Object) -> Iterable[str]:
    name = ((endpoint.get("spec") or {}).get("jobRef") or {}).get("name")
    return (f"{endpoint['metadata']['namespace']}/{name}",) if name else ()


def _by_monitored(child: Object) -> Iterable[str]:
    metadata = child["metadata"]
    return (f"{metadata['namespace']}/{metadata['labels'].get(MONITOR_LABEL)}",)


def _by_server(endpoint: Object) -> Iterable[str]:
    namespace = endpoint["metadata"]["namespace"]
    return [f"{namespace}/{server}" for server in servers_of(endpoint)]


class Endpoints:
    """FineTuneEndpoints, and the Deployments and pods that serve them. Event loop only.

    Args:
        client: The API client; only reads.
        jobs: The cache of FineTuneJobs.
        wake: Called with a FineTuneEndpoint to reconcile.
        forget: Called with FineTuneEndpoints that are gone.
        namespaces: Watched namespaces; empty for all.

    Attributes:
        informers: What has to run: the endpoints' first.
        urgent: Deployments whose reports an endpoint waits for, by endpoint.
    """

    def __init__(
        self,
        client: KubeClient,
        jobs: Store,
        *,
        wake: Wake,
        forget: Callable[[Object], None],
        namespaces: Sequence[str],
        rng: random.Random,
    ) -> None:
        self._wake = wake
        self._forget = forget
        self.urgent: dict[ObjectKey, frozenset[str]] = {}
        informer = partial(
            Informer,
            client,
            namespaces=namespaces,
            may_be_forbidden=True,
            rest_seconds=REST_SECONDS,
            rng=rng,
        )
        self.informer = informer(
            FINETUNEENDPOINTS,
            transform=trim_finetunejob,
            indexers={BY_NAMESPACE: _by_namespace, BY_JOB: _by_job, BY_SERVER: _by_server},
            on_served=partial(warn_unreadable, "FineTuneEndpoints", ENDPOINT_KIND),
        )
        self.pods_informer = informer(
            PODS,
            label_selector=SERVING_LABEL,
            transform=trim_serving_pod,
            indexers={BY_NAMESPACE: _by_namespace},
            on_served=partial(warn_unreadable, "Serving pods", ENDPOINT_KIND),
        )
        self.deployments_informer = informer(
            DEPLOYMENTS,
            label_selector=SERVING_LABEL,
            transform=trim_deployment,
            indexers={BY_NAMESPACE: _by_namespace},
            on_served=partial(warn_unreadable, "Deployments", ENDPOINT_KIND),
        )
        look = partial(
            informer,
            label_selector=MONITOR_LABEL,
            indexers={BY_MONITORED: _by_monitored},
            on_served=partial(warn_unreadable, "Looks at captured answers", ENDPOINT_KIND),
        )
        self.looks_informer = look(JOBS, transform=trim_job)
        self.look_pods_informer = look(PODS, transform=trim_pod)
        self.informers = [
            *(self.informer, self.pods_informer, self.deployments_informer),
            *(self.looks_informer, self.look_pods_informer),
        ]
        self.store = self.informer.store
        self.pods = self.pods_informer.store
        self.deployments = self.deployments_informer.store
        self.store.add_handler(self._on_endpoint)
        self.pods.add_handler(self._on_workload)
        self.deployments.add_handler(self._on_workload)
        self.looks_informer.store.add_handler(self._on_look)
        self.look_pods_informer.store.add_handler(self._on_look)
        jobs.add_handler(self._on_job)

    def new_reports(self, *, clock: Clock, rng: random.Random) -> ServingReports:
        """Return a poller of the serving pods, which wakes endpoints."""
        return ServingReports(
            self.pods,
            urgent=self.targets,
            num_pods=self._num_pods,
            names=self._reported_names,
            on_news=self._on_report,
            clock=clock,
            rng=rng,
        )

    def of_namespace(self, namespace: str) -> list[Object]:
        """Return the endpoints of a namespace."""
        return self.store.by_index(BY_NAMESPACE, namespace)

    def pods_in(self, namespace: str) -> list[Object]:
        """Return the trimmed serving pods of a namespace."""
        return self.pods.by_index(BY_NAMESPACE, namespace)

    def deployments_in(self, namespace: str) -> list[Object]:
        """Return the trimmed Deployments of the front and the servers of a namespace."""
        return self.deployments.by_index(BY_NAMESPACE, namespace)

    def looks_of(self, key: ObjectKey, uid: str) -> tuple[Look, ...]:
        """Return the looks whose Jobs an endpoint of this UID controls."""
        jobs = cast("list[TrimmedJob]", self._monitored(self.looks_informer.store, key))
        pods = cast("list[TrimmedPod]", self._monitored(self.look_pods_informer.store, key))
        found = (read_look(key[1], job, pods) for job in jobs if owner_uid(job) == uid)
        return tuple(look for look in found if look is not None)

    def _monitored(self, store: Store, key: ObjectKey) -> list[Object]:
        return store.by_index(BY_MONITORED, "/".join(key))

    def targets(self) -> set[Target]:
        """Return the Deployments whose reports a decision waits for."""
        return {
            (namespace, deployment)
            for (namespace, _), deployments in self.urgent.items()
            for deployment in deployments
        }

    def set_urgent(self, endpoint: Object, *, is_urgent: bool) -> None:
        """Ask the pods of an endpoint often from now on, or seldom."""
        key = key_of(endpoint)
        if is_urgent:
            self.urgent[key] = frozenset({FRONT, *servers_of(endpoint)})
        else:
            self.urgent.pop(key, None)

    def _num_pods(self, target: Target) -> int:
        """Return how many pods a Deployment can have: one more than wanted while it is replaced."""
        found = self.deployments.get(*target)
        return 0 if found is None else found["numWanted"] + 1

    def _reported_names(self, target: Target) -> set[str]:
        """Return the endpoints, and the versions, that reports of a Deployment can be about."""
        users = self._users(*target)
        names = {str(each["metadata"]["name"]) for each in users}
        if target[1] == FRONT:
            return names
        versions = (version for each in users for version in versions_of(each))
        return names | {str(version.get("adapter")) for version in versions}

    def _on_report(self, pod: Object, before: Report | None, after: Report | None) -> None:
        """Wake the endpoints that a changed report is about."""
        namespace = pod["metadata"]["namespace"]
        server = pod["deployment"]
        if server == FRONT:
            changed = _changed(_routes(before), _routes(after))
            for key in ((namespace, name) for name in changed):
                if key in self.store:
                    self._wake(key, PRIORITY_CHILD)
            return
        changed = _changed(_served(before), _served(after))
        for endpoint in self._users(namespace, server):
            adapters = {str(each.get("adapter")) for each in versions_of(endpoint)}
            if (adapters | {endpoint["metadata"]["name"]}) & changed:
                self._wake(key_of(endpoint), PRIORITY_CHILD)

    def _on_endpoint(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self.urgent.pop(key_of(old), None)
            self._forget(old)
            self._wake_neighbours(old, servers_of(old))
            return
        if old is None or is_edited(old, new):
            self._wake(key_of(new), PRIORITY_USER)
        if old is not None and (left := servers_of(old) - servers_of(new)):
            self._wake_neighbours(new, left)

    def _wake_neighbours(self, endpoint: Object, servers: Iterable[str]) -> None:
        """Wake who shares servers that an endpoint has left: their owners have changed."""
        for server in servers:
            self._wake_users(endpoint["metadata"]["namespace"], server)

    def _users(self, namespace: str, deployment: str) -> list[Object]:
        """Return the endpoints that a Deployment serves."""
        if deployment == FRONT:
            return self.of_namespace(namespace)
        return self.store.by_index(BY_SERVER, f"{namespace}/{deployment}")

    def _wake_users(self, namespace: str, deployment: str) -> None:
        for endpoint in self._users(namespace, deployment):
            self._wake(key_of(endpoint), PRIORITY_CHILD)

    def _on_workload(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        """Wake the endpoints of a changed Deployment, or of the one that a changed pod names."""
        if old is None or new is None or _facts(old) != _facts(new):
            found = old if new is None else new
            assert found is not None
            namespace, name = key_of(found)
            self._wake_users(namespace, found.get("deployment", name))

    def _on_look(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        """Wake the endpoint of a look that has begun or ended, or is gone."""
        if old is None or new is None or old["status"] != new["status"]:
            found = old if new is None else new
            assert found is not None
            metadata = found["metadata"]
            key = (metadata["namespace"], metadata["labels"].get(MONITOR_LABEL, ""))
            if key in self.store:
                self._wake(key, PRIORITY_CHILD)

    def _on_job(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        if old is not None and new is not None and _artifact(old) == _artifact(new):
            return
        job = old if new is None else new
        assert job is not None
        (followed,) = index_by_published_name(job)
        for endpoint in self.store.by_index(BY_JOB, followed):
            self._wake(key_of(endpoint), PRIORITY_CHILD)


def _artifact(job: Object) -> object:
    return (job.get("status") or {}).get("artifact"), job["metadata"].get("uid")


def _facts(trimmed: Object) -> Object:
    """Return what decisions rest on, without the version of the object."""
    facts = {key: value for key, value in trimmed.items() if key != "metadata"}
    return {**facts, "deleted": trimmed["metadata"].get("deletionTimestamp")}


def _routes(report: Report | None) -> dict[str, object]:
    if not isinstance(report, FrontReport):
        return {}
    return {each.name: each for each in report.endpoints}


def _served(report: Report | None) -> dict[str, object]:
    if not isinstance(report, ServerReport):
        return {}
    return {each.name: each for each in (*report.adapters, *(report.records or ()))}


def _changed(before: dict[str, object], after: dict[str, object]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
