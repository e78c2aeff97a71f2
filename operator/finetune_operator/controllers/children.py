"""The writes and live reads a plan asks for. Thin: decides nothing.

Children are created, never applied: a creation cannot overwrite anything, and a name that is taken
is looked at once. Ours means that an earlier attempt got so far; somebody else's is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from finetune_api.names import (
    ACTIVE_SECONDS_ANNOTATION,
    ACTIVE_START_ANNOTATION,
    PAUSED_ANNOTATION,
)
from finetune_api.trainer import Stage
from finetune_operator.controllers.caches import FINETUNEJOBS, Caches
from finetune_operator.finetunejob.actions import (
    ActivateWorkload,
    ConfirmMissing,
    CreateStage,
    DeleteSelf,
    LookUpWarnings,
    PauseJob,
    ResumeJob,
)
from finetune_operator.finetunejob.observed import Observed, Refusal, owner_uid, trim_job
from finetune_operator.integrations.kueue.workload import WORKLOADS
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import AlreadyExists, Forbidden, Invalid, NotFound
from finetune_operator.kube.resource import CONFIG_MAPS, EVENTS, JOBS, SERVICES, Object, Resource
from finetune_operator.status.conditions import Reason, parse_timestamp

FIELD_MANAGER = "finetune-operator"
_RESOURCES: dict[str, Resource] = {"ConfigMap": CONFIG_MAPS, "Service": SERVICES, "Job": JOBS}


_CONTAINER_REASONS = frozenset({"Pulling", "Pulled", "Created", "Started"})
"""Reasons of Events by which the kubelet tells that it has come to the container itself."""


class NameTaken(Exception):  # noqa: N818 - a state of the world
    """The name of a child belongs to an object of somebody else."""


class Children:
    """Performs actions. Event loop only.

    Args:
        client: The API client, fenced by the leader election.
        caches: Told of the answers, so that the next reconcile sees its own writes.
    """

    def __init__(self, client: KubeClient, caches: Caches) -> None:
        self._client = client
        self._caches = caches

    async def create_needs(self, observed: Observed, action: CreateStage) -> Observed:
        """Create the objects that a stage's pods need."""
        return await self._create_all(observed, action.stage, action.needs)

    async def create_job(self, observed: Observed, action: CreateStage) -> Observed:
        """Create the Job of a stage; the snapshot then holds it, or why it could not be."""
        if action.stage in observed.refusals:
            return observed
        return await self._create_all(observed, action.stage, (action.job,))

    async def _create_all(
        self, observed: Observed, stage: Stage, objects: tuple[Object, ...]
    ) -> Observed:
        try:
            for obj in objects:
                answer = await self._create_owned(obj, observed.uid)
                if obj["kind"] == "Job":
                    observed = self._with_job(observed, stage, answer)
        except NameTaken as error:
            refusal = Refusal(reason=Reason.NAME_TAKEN, message=str(error))
        except Forbidden as error:
            # A ResourceQuota, an admission policy or missing rights: all can change.
            refusal = Refusal(reason="Forbidden", message=str(error))
        except Invalid as error:
            refusal = Refusal(reason="Invalid", message=str(error), is_final=True)
        else:
            return observed
        return replace(observed, refusals={**observed.refusals, stage: refusal})

    async def _create_owned(self, obj: Object, uid: str) -> Object:
        """Create an object, or find that an earlier attempt did.

        Raises:
            NameTaken: The name belongs to an object of another owner.
        """
        resource = _RESOURCES[obj["kind"]]
        try:
            return await self._client.create(resource, obj, field_manager=FIELD_MANAGER)
        except AlreadyExists as error:
            metadata = obj["metadata"]
            live = await self._client.get(resource, metadata["namespace"], metadata["name"])
            if _controller_uid(live) != uid:
                raise NameTaken(
                    f"{resource.kind} {metadata['name']} exists and belongs to another object;"
                    " the job waits until it is gone"
                ) from error
            return live

    def _with_job(self, observed: Observed, stage: Stage, job: Object) -> Observed:
        with self._caches.quiet():
            self._caches.jobs.absorb(job)
        return replace(observed, jobs={**observed.jobs, stage: trim_job(job)})

    async def confirm_missing(self, observed: Observed, action: ConfirmMissing) -> Observed:
        """Read a Job live before it is believed to be gone."""
        try:
            live = await self._client.get(JOBS, observed.namespace, action.name)
        except NotFound:
            live = None
        if live is not None and _controller_uid(live) == observed.uid:
            return self._with_job(observed, action.stage, live)
        return replace(observed, missing=observed.missing | {action.stage})

    async def look_up_warnings(self, observed: Observed, action: LookUpWarnings) -> Observed:
        """Read why the kubelet cannot start a pod; without the right to, nothing is known."""
        warnings = dict(observed.warnings)
        for pod in action.pods:
            selector = f"involvedObject.kind=Pod,involvedObject.name={pod}"
            try:
                found = await self._client.list(
                    EVENTS, observed.namespace, field_selector=selector, limit=50
                )
            except Forbidden:
                warnings[pod] = ""
                continue
            warnings[pod] = _present_warning(found.items, action.since)
        return replace(observed, warnings=warnings)

    async def perform(
        self, observed: Observed, action: PauseJob | ResumeJob | ActivateWorkload | DeleteSelf
    ) -> None:
        """Do what follows the status write; whatever is gone already needs nothing."""
        namespace = observed.namespace
        try:
            match action:
                case PauseJob(name=name, active_seconds=seconds, started=started):
                    annotations: Object = {
                        PAUSED_ANNOTATION: "true",
                        ACTIVE_SECONDS_ANNOTATION: str(seconds),
                        ACTIVE_START_ANNOTATION: started,
                    }
                    await self._patch_job(namespace, name, annotations, suspend=True)
                case ResumeJob(name=name):
                    await self._patch_job(namespace, name, {PAUSED_ANNOTATION: None}, suspend=False)
                case ActivateWorkload(name=name, active=active):
                    await self._activate(namespace, name, active=active)
                case DeleteSelf():
                    await self._client.delete(
                        FINETUNEJOBS, namespace, observed.name, uid=observed.uid
                    )
        except NotFound:
            return

    async def _activate(self, namespace: str, name: str, *, active: bool) -> None:
        answer = await self._client.merge_patch(
            WORKLOADS,
            namespace,
            name,
            {"spec": {"active": active}},
            field_manager=FIELD_MANAGER,
        )
        # Resumed before the watch tells, the job must not take it for active still.
        informer = self._caches.workloads_informer
        if informer is not None:
            informer.store.absorb(answer)

    async def _patch_job(
        self, namespace: str, name: str, annotations: Object, *, suspend: bool
    ) -> None:
        patch = {"metadata": {"annotations": annotations}, "spec": {"suspend": suspend}}
        answer = await self._client.merge_patch(
            JOBS, namespace, name, patch, field_manager=FIELD_MANAGER
        )
        # Not quiet: what follows from the stop is planned in the next reconcile.
        self._caches.jobs.absorb(answer)


def _controller_uid(obj: Object) -> str:
    if "owner" in obj["metadata"]:
        return owner_uid(obj)
    for owner in obj["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner.get("uid") or "")
    return ""


def _present_warning(events: Iterable[Object], since: datetime) -> str:
    """Return the latest warning that is still so, or the empty string.

    The kubelet repeats what lasts at least every two minutes. Whatever came before it began to
    pull the image is over: volumes are mounted by then.
    """
    told = [(moment, event) for event in events if (moment := _event_time(event)) is not None]
    begun = [moment for moment, event in told if event.get("reason") in _CONTAINER_REASONS]
    over = max([since, *begun])
    present = [
        (moment, str(event.get("message") or ""))
        for moment, event in told
        # The scheduler's are older: these pods have a node.
        if event.get("type") == "Warning" and event.get("reason") != "FailedScheduling"
        if moment > over
    ]
    return max(present, default=(over, ""))[1]


def _event_time(event: Object) -> datetime | None:
    series = event.get("series") or {}
    told = [event.get("lastTimestamp"), series.get("lastObservedTime"), event.get("eventTime")]
    # Who writes none of them is told by the API server's own clock.
    told.append((event.get("metadata") or {}).get("creationTimestamp"))
    return max(filter(None, map(parse_timestamp, told)), default=None)
