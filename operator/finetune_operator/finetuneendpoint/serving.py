"""Which servers and which front must exist for the versions of an endpoint, and which look."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from finetune_api.protocol.monitoring import LookTask
from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_api.v1alpha1.spec.serving import Replicas
from finetune_operator.finetuneendpoint.actions import ApplyServing, Front, NeededServer, Split
from finetune_operator.finetuneendpoint.monitoring.looks import find_due
from finetune_operator.finetuneendpoint.observed import Observed
from finetune_operator.finetuneendpoint.recording import Place, join_places, place_of
from finetune_operator.finetuneendpoint.rotation import Rotation
from finetune_operator.finetuneendpoint.servers import Server, server_of
from finetune_operator.status.conditions import Reason, parse_timestamp, timestamp


def serving_of(observed: Observed, rotation: Rotation) -> ApplyServing:
    """Return what must exist for the versions in rotation, shared with the neighbours."""
    described: dict[str, Server] = {}
    used = {version.server for version in rotation.served}
    for version in rotation.served:
        server = server_of(
            version,
            observed.spec.serve,
            namespace=observed.namespace,
            endpoint_uid=observed.uid,
        )
        if server.name == version.server and observed.fault is None:
            described[server.name] = server
    return ApplyServing(
        front=_front(observed, rotation),
        servers=tuple(
            _needed(observed, rotation, server) for _, server in sorted(described.items())
        ),
        keep=tuple(sorted(used - described.keys())),
        release=tuple(sorted(observed.owned - used)),
        split=_split(observed, rotation),
    )


def _split(observed: Observed, rotation: Rotation) -> Split | None:
    """Return the weights for an inference gateway, which follow those that the fronts read."""
    if observed.fault is not None:
        return None
    active, candidate = rotation.active, rotation.candidate
    weights: list[tuple[int, int]] = []
    if active is not None and observed.spec.serve.routing == "Gateway":
        taken = candidate.weight if candidate is not None else 0
        weights.append((active.version, 100 - taken))
        if candidate is not None:
            weights.append((candidate.version, taken))
    return Split(owner=observed.owner, weights=tuple(each for each in weights if each[1]))


def _front(observed: Observed, rotation: Rotation) -> Front:
    access, capture = observed.spec.access, observed.spec.capture
    secrets = set[str]().union(*(each.key_secrets for each in observed.neighbours))
    if access is not None and access.keys_from is not None:
        secrets.add(access.keys_from.secret_ref.name)
    if capture is not None and capture.editors_from is not None:
        secrets.add(capture.editors_from.secret_ref.name)
    owners = (observed.owner, *(each.owner for each in observed.neighbours))
    return Front(
        namespace=observed.namespace,
        owners=tuple(sorted(owners, key=lambda owner: owner.uid)),
        key_secrets=tuple(sorted(secrets)),
        recording=join_places(
            [recorded_at(observed, rotation), *(each.recorded for each in observed.neighbours)]
        ),
    )


def recorded_at(observed: Observed, rotation: Rotation) -> Place | None:
    """Return where captured answers of the endpoint are stored; None if it captures none.

    It is known while the first version is verified. So the front has its recorder by the time that
    version answers. Where they may not be stored, none is.
    """
    fault = observed.fault
    if fault is not None and fault.reason == Reason.URI_NOT_ALLOWED:
        return None
    served = rotation.active or rotation.candidate
    return place_of(observed.spec.capture, served.storage if served is not None else None)


def next_look(
    observed: Observed, rotation: Rotation, now: datetime
) -> tuple[LookTask | None, float | None]:
    """Return the look that is due now, and in how many seconds the next one is."""
    monitor, active = observed.spec.monitor, rotation.active
    place = recorded_at(observed, rotation)
    since = parse_timestamp(active.since) if active is not None else None
    if monitor is None or active is None or place is None or since is None:
        return None, None
    due = find_due(monitor, since, observed.name, observed.looks, now)
    if due.wait_seconds is None or due.wait_seconds > 0:
        return None, due.wait_seconds
    traffic = {"uri": place.uri, "credentials_secret": place.secret}
    task = LookTask(
        namespace=observed.namespace,
        endpoint=observed.name,
        job=observed.spec.job_ref.name,
        active=active,
        traffic=active.storage.model_copy(update=traffic),
        monitor=monitor,
        judge=_judge(observed) if monitor.quality is not None else None,
        until=timestamp(due.until),
    )
    return task, None


def _judge(observed: Observed) -> Judge | None:
    """Return the judge of the job that the endpoint serves; None if it has none."""
    spec = (observed.job or {}).get("spec") or {}
    wire = (spec.get("evaluation") or {}).get("judge")
    try:
        return None if wire is None else Judge.model_validate(wire)
    except ValidationError:
        return None  # of a newer version of the API


def _needed(observed: Observed, rotation: Rotation, server: Server) -> NeededServer:
    name = server.name  # a digest: computed once for all neighbours
    sharing = [each for each in observed.neighbours if name in each.servers]
    replicas = [observed.spec.serve.replicas, *(each.replicas for each in sharing)]
    candidate = rotation.candidate
    is_awaited = candidate is not None and candidate.server == name
    fewest = max(max(each.min for each in replicas), int(is_awaited))
    owners = (observed.owner, *(each.owner for each in sharing))
    return NeededServer(
        server=server,
        owners=tuple(sorted(owners, key=lambda owner: owner.uid)),
        replicas=Replicas(min=fewest, max=max(fewest, *(each.max for each in replicas))),
    )
