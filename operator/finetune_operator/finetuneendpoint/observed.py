"""What is known of one FineTuneEndpoint at one moment: facts, without a judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_api.meta import ENDPOINT_KIND
from finetune_api.names import FRONT, SKIP_STEPS_ANNOTATION, Owner
from finetune_api.protocol.serving import MAX_RECORDS, FrontReport, RecordReport, ServerReport
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint, FineTuneEndpointSpec
from finetune_api.v1alpha1.spec.serving import Replicas
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.monitoring.looks import Look
from finetune_operator.finetuneendpoint.recording import Place, read_place
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.status.conditions import ConditionType, find_condition

Object = dict[str, Any]

VERSION_SECTIONS = ("active", "candidate", "previous")
"""Sections of the status that each name a version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """Another endpoint of the namespace, as far as both share a front or servers.

    Attributes:
        servers: Servers that its status names.
        key_secrets: Secrets with its keys and those of its editors.
        recorded: Where it stores captured answers; None if it captures none.
        created: When it was created, as the API server writes it.
    """

    owner: Owner
    created: str = ""
    servers: frozenset[str] = frozenset()
    key_secrets: frozenset[str] = frozenset()
    recorded: Place | None = None
    replicas: Replicas = field(default_factory=Replicas)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A Deployment of ours.

    Attributes:
        num_wanted: Pods that its spec asks for.
        num_updated: Pods that were made from its present spec.
        problem: Why its pods do not come up, in the cluster's words; empty if nothing is wrong.
    """

    num_ready: int
    num_wanted: int
    num_updated: int = 0
    problem: str = ""

    @property
    def is_up(self) -> bool:
        """Whether a pod is ready."""
        return self.num_ready > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerPod:
    """A pod of a server Deployment.

    Attributes:
        server: Name of the Deployment.
        node: Name of its node; empty if nobody knows.
        report: Its last report; None without one.
    """

    name: str
    server: str
    is_ready: bool
    node: str = ""
    report: ServerReport | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Snapshot of a FineTuneEndpoint and of what it depends on.

    Attributes:
        endpoint: The object as stored.
        parsed: The validated object; None if ``problem`` is set.
        config: The administrator's settings for the namespace.
        problem: Cause for which the spec cannot be read.
        fault: Cause for which this cluster does not allow the spec, such as an image.
        job: The FineTuneJob that ``spec.jobRef`` names; None if there is none.
        neighbours: The other endpoints of the namespace that may serve, without those that are
            being deleted.
        num_older: Older endpoints of the namespace.
        fronts: Last reports of the fronts of the namespace.
        servers: Pods of the servers of the namespace.
        workloads: The front's and the servers' Deployments by name.
        moving: Servers of the namespace that other endpoints are moving to.
        is_crowded: As many servers of other namespaces move as the administrator lets move at once.
        num_failed_moves: Namespaces of other endpoints whose versions cannot move.
        is_young: The operator has not run long enough to miss the report of a pod.
        owned: Servers that have this endpoint among their owners.
        looks: Looks at its captured answers that exist.
        look_refusal: Cause for which the API server does not take the Job of one.
        min_look_interval: Shortest allowed time between two looks.
        refusal: Cause for which the API server does not take what was asked for.
        written_at: When this process last wrote the status; None if it has not.
    """

    endpoint: Object
    parsed: FineTuneEndpoint | None
    config: OperatorConfig = field(default_factory=OperatorConfig)
    problem: str = ""
    fault: Refusal | None = None
    job: Object | None = None
    neighbours: tuple[Neighbour, ...] = ()
    num_older: int = 0
    fronts: tuple[FrontReport, ...] = ()
    servers: tuple[ServerPod, ...] = ()
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    moving: frozenset[str] = frozenset()
    is_crowded: bool = False
    num_failed_moves: int = 0
    is_young: bool = False
    owned: frozenset[str] = frozenset()
    looks: tuple[Look, ...] = ()
    look_refusal: Refusal | None = None
    min_look_interval: str = "1m"
    refusal: Refusal | None = None
    written_at: datetime | None = None

    @property
    def name(self) -> str:
        """Name of the endpoint, and of the model in requests."""
        return str(self.endpoint["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.endpoint["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """Its UID."""
        return str(self.endpoint["metadata"]["uid"])

    @property
    def spec(self) -> FineTuneEndpointSpec:
        """The spec of an endpoint that can be read."""
        assert self.parsed is not None
        return self.parsed.spec

    @property
    def is_edited(self) -> bool:
        """Whether the spec was changed since the status was written."""
        told = (self.endpoint.get("status") or {}).get("observedGeneration")
        return bool(told != self.endpoint["metadata"].get("generation"))

    @property
    def lacks_decisions(self) -> bool:
        """Whether the status has no version that answers, and nobody has read what is stored."""
        status = self.endpoint.get("status") or {}
        conditions = status.get("conditions")
        return "active" not in status and not find_condition(conditions, ConditionType.RECORDED)

    def records_on(self, server: str) -> list[RecordReport] | None:
        """Return what the pods of a server report of the endpoint's stored decisions.

        None: no pod reports, or none of a release that stores decisions.
        """
        reports = [pod.report for pod in self.servers if pod.server == server and pod.report]
        lists = [each.records for each in reports if each.records is not None]
        if not lists or any(len(each) >= MAX_RECORDS for each in lists):
            return None
        return [each for records in lists for each in records if each.name == self.name]

    @property
    def skips_steps_of(self) -> str:
        """Number of the version that a person lets answer all requests at once; empty if none."""
        return str(
            (self.endpoint["metadata"].get("annotations") or {}).get(SKIP_STEPS_ANNOTATION, "")
        )

    @property
    def owner(self) -> Owner:
        """The endpoint as an owner of its front and servers."""
        return owner_of(self.endpoint)

    @property
    def created(self) -> str:
        """When it was created, as the API server writes it."""
        return str(self.endpoint["metadata"].get("creationTimestamp") or "")

    @property
    def front(self) -> Workload | None:
        """The front's Deployment; None if it does not exist."""
        return self.workloads.get(FRONT)


def owner_of(endpoint: Object) -> Owner:
    """Return an endpoint as an owner of other objects."""
    metadata = endpoint["metadata"]
    return Owner(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        kind=ENDPOINT_KIND,
    )


def versions_of(endpoint: Object) -> list[Object]:
    """Return the versions that an endpoint's status names."""
    status = endpoint.get("status") or {}
    return [status[name] for name in VERSION_SECTIONS if status.get(name)]


def servers_of(endpoint: Object) -> frozenset[str]:
    """Return the servers that an endpoint's status names."""
    return frozenset(str(each["server"]) for each in versions_of(endpoint) if each.get("server"))


def move_of(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the section on the server that an active version moves to, or that refused it."""
    active, candidate = status.get("active") or {}, status.get("candidate") or {}
    one, other = ((each.get("version"), each.get("manifestUri")) for each in (active, candidate))
    return candidate if candidate and one == other else status.get("refused") or {}


def read_neighbour(endpoint: Object) -> Neighbour | None:
    """Return what an endpoint shares with others; None if it is being deleted.

    The spec is not validated: whatever cannot be read is taken as not given.
    """
    if endpoint["metadata"].get("deletionTimestamp"):
        return None
    spec = endpoint.get("spec") or {}
    sources = (
        (spec.get("access") or {}).get("keysFrom"),
        (spec.get("capture") or {}).get("editorsFrom"),
    )
    secrets = (((each or {}).get("secretRef") or {}).get("name") for each in sources)
    replicas = (spec.get("serve") or {}).get("replicas") or {}
    place = read_place(endpoint)
    return Neighbour(
        owner=owner_of(endpoint),
        created=str(endpoint["metadata"].get("creationTimestamp") or ""),
        servers=servers_of(endpoint),
        key_secrets=frozenset(str(each) for each in secrets if each),
        recorded=None if place is None or place.is_claim else place,
        replicas=Replicas(min=replicas.get("min", 1), max=replicas.get("max", 1)),
    )
