"""Which servers and which front must exist for the versions of an endpoint, and which look."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from finetune_api.meta import seconds_of
from finetune_api.protocol.monitoring import LookTask
from finetune_api.protocol.serving import OUTLIVES_SECONDS
from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_api.v1alpha1.spec.serving import Replicas
from finetune_operator.finetuneendpoint.actions import ApplyServing, Front, NeededServer
from finetune_operator.finetuneendpoint.monitoring.looks import find_due
from finetune_operator.finetuneendpoint.observed import Neighbour, Observed
from finetune_operator.finetuneendpoint.recording import Place, place_of
from finetune_operator.finetuneendpoint.rotation import Rotation
from finetune_operator.finetuneendpoint.servers import Server, server_of
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.status.conditions import Reason, parse_timestamp, timestamp

MAX_SECRETS = 128
"""Secrets that a pod of the front mounts, each as a volume of its own."""


def seconds_to_outlive(observed: Observed, rotation: Rotation, now: datetime) -> float:
    """Return for how long servers still answer that the active version has left; 0 for none."""
    since = parse_timestamp(rotation.active.since) if rotation.active is not None else None
    is_left = observed.owned - {version.server for version in rotation.served}
    if since is None or not is_left:
        return 0.0
    return max(0.0, OUTLIVES_SECONDS - (now - since).total_seconds())


def serving_of(observed: Observed, rotation: Rotation, now: datetime) -> ApplyServing:
    """Return what must exist for the versions in rotation, shared with the neighbours."""
    described: dict[str, Server] = {}
    used = {version.server for version in rotation.served}
    unused = set() if seconds_to_outlive(observed, rotation, now) else observed.owned - used
    for version in rotation.served:
        server = server_of(
            version,
            observed.spec.serve,
            observed.config,
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
        release=tuple(sorted(unused)),
    )


def _front(observed: Observed, rotation: Rotation) -> Front:
    mounted = _mounted(observed, rotation)
    places = [each.recorded for each in mounted if each.recorded is not None]
    owners = (observed.owner, *(each.owner for each in observed.neighbours))
    return Front(
        namespace=observed.namespace,
        owners=tuple(sorted(owners, key=lambda owner: owner.uid)),
        key_secrets=tuple(sorted(set[str]().union(*(each.key_secrets for each in mounted)))),
        store_secrets=tuple(sorted({place.secret for place in places if place.secret}))
        if places
        else None,
    )


def _mounted(observed: Observed, rotation: Rotation) -> list[Neighbour]:
    """Return the endpoints whose Secrets the front's pods mount, oldest first.

    An endpoint whose Secrets are too many is left out, so that it takes nothing from those that
    were there before.
    """
    access, capture = observed.spec.access, observed.spec.capture
    sources = (
        None if access is None else access.keys_from,
        None if capture is None else capture.editors_from,
    )
    own = Neighbour(
        owner=observed.owner,
        created=observed.created,
        key_secrets=frozenset(each.secret_ref.name for each in sources if each is not None),
        recorded=recorded_at(observed, rotation),
    )
    mounted: list[Neighbour] = []
    names = set[str]()
    everyone = sorted((own, *observed.neighbours), key=lambda each: (each.created, each.owner.uid))
    for each in everyone:
        place = each.recorded
        more = each.key_secrets - names
        if place is not None and place.secret:
            more |= {place.secret} - names
        if len(names) + len(more) <= MAX_SECRETS:
            names |= more
            mounted.append(each)
    return mounted


def find_front_fault(observed: Observed, rotation: Rotation) -> Refusal | None:
    """Return what the front cannot do for this endpoint, which others do not feel; None if nothing.

    It captures nothing on a claim, and mounts a bounded number of Secrets.
    """
    place = _place_of(observed, rotation)
    if place is not None and place.is_claim:
        message = (
            f"spec.capture.uri: answers are not stored at {place.uri!r}: pods that answer for"
            " several endpoints mount no claim of one of them; set it to s3://bucket/prefix."
        )
        return Refusal(reason=Reason.URI_NOT_ALLOWED, message=message, is_final=True)
    if observed.owner not in (each.owner for each in _mounted(observed, rotation)):
        message = (
            f"spec.access: older endpoints of this namespace name {MAX_SECRETS} Secrets with keys"
            " and credentials, and the front mounts no more; name a Secret that one of them names,"
            " or use another namespace."
        )
        return Refusal(reason=Reason.INVALID_SPEC, message=message, is_final=True)
    return None


def recorded_at(observed: Observed, rotation: Rotation) -> Place | None:
    """Return where captured answers of the endpoint are stored; None if it captures none.

    It is known while the first version is verified. So the front has its recorder by the time that
    version answers. Where they may not be stored, none is.
    """
    place, fault = _place_of(observed, rotation), observed.fault
    if fault is not None and fault.reason == Reason.URI_NOT_ALLOWED:
        return None
    return None if place is None or place.is_claim else place


def _place_of(observed: Observed, rotation: Rotation) -> Place | None:
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
    every = max(seconds_of(monitor.every), seconds_of(observed.min_look_interval))
    due = find_due(every, since, observed.name, observed.looks, now)
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
        share=observed.spec.capture.share if observed.spec.capture is not None else "",
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
    fewest = max(each.min for each in replicas)
    most = max(fewest, *(each.max for each in replicas))
    if is_awaited:
        # It takes over with as many pods as answer now.
        active = rotation.active
        present = observed.workloads.get(active.server) if active is not None else None
        fewest = max(fewest, min(most, present.num_ready if present is not None else 0), 1)
    owners = (observed.owner, *(each.owner for each in sharing))
    return NeededServer(
        server=server,
        owners=tuple(sorted(owners, key=lambda owner: owner.uid)),
        replicas=Replicas(min=fewest, max=max(fewest, most)),
    )
