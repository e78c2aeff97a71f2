"""What the plan of an endpoint asks for: one status, and the servers and the front behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_api.names import Owner
from finetune_api.protocol.monitoring import LookTask
from finetune_api.v1alpha1.spec.serving import Replicas
from finetune_operator.finetuneendpoint.servers import Server
from finetune_operator.status.draft import Announce
from finetune_operator.status.fitting import FittedStatus

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class NeededServer:
    """A server Deployment with its Service that must exist as described.

    Attributes:
        owners: All endpoints that use it, by UID. It goes with the last of them.
        replicas: Fewest and most pods, of all these endpoints together. The fewest is at least one
            while a version waits to be verified. Where they differ an autoscaler decides.
    """

    server: Server
    owners: tuple[Owner, ...]
    replicas: Replicas

    @property
    def name(self) -> str:
        """Name of the Deployment and the Service."""
        return self.server.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Front:
    """The front of the namespace, which must exist.

    Attributes:
        owners: All endpoints of the namespace, by UID.
        key_secrets: Names of all Secrets with keys of theirs, sorted.
        store_secrets: Names of the Secrets that captured answers are stored with; None if no
            endpoint captures any.
    """

    namespace: str
    owners: tuple[Owner, ...]
    key_secrets: tuple[str, ...] = ()
    store_secrets: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ApplyServing:
    """What must exist so that the status holds. Apply it after the status is written.

    It is the same at each look until something changes; what exists already needs no request.

    Attributes:
        servers: Servers to create, or to bring to this form.
        keep: Servers that stay as they are: versions in the status still need them, and the
            present spec no longer describes them.
        release: Servers that this endpoint owns and needs no more: take its owner reference away,
            and delete those without another owner.
    """

    front: Front
    servers: tuple[NeededServer, ...] = ()
    keep: tuple[str, ...] = ()
    release: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The decisions on one endpoint.

    Attributes:
        status: The status, complete; None to leave it as it is.
        conditions: The conditions alone, of a status that cannot be read; None if it can be, or if
            they are unchanged.
        events: Events of changes, recorded after the status is written.
        serving: What must exist; None to touch nothing.
        look: Look at captured answers to create a Job for; None for none now.
        requeue_after: Look again after this many seconds, or None.
        report_interval_seconds: How often to ask the pods for reports meanwhile.
    """

    status: FittedStatus | None = None
    conditions: list[Object] | None = None
    events: tuple[Announce, ...] = ()
    serving: ApplyServing | None = None
    look: LookTask | None = None
    requeue_after: float | None = None
    report_interval_seconds: float = 30.0
