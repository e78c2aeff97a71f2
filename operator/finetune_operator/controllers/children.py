"""The writes and live reads of a plan; decides nothing.

Children are created, never applied, so a creation overwrites nothing. If a name is taken, its
object is read: our own is from an earlier attempt, another's is reported.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finetune_api.names import ACTIVE_SECONDS_ANNOTATION, ACTIVE_START_ANNOTATION, PAUSED_ANNOTATION
from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.guarding import FIELD_MANAGER
from finetune_operator.controllers.memory.caches import FINETUNEJOBS, Caches
from finetune_operator.controllers.parents import find_live
from finetune_operator.controllers.refusals import NameTaken, Refusals, create_owned
from finetune_operator.controllers.warnings import PodWarnings
from finetune_operator.finetunejob.render.config import digest_of
from finetune_operator.finetunejob.state.actions import (
    ActivateWorkload,
    ConfirmMissing,
    CreateStage,
    DeleteSelf,
    FailPod,
    LookUpWarnings,
    PauseJob,
    RelabelJob,
    RestoreNeeds,
    ResumeJob,
    Write,
)
from finetune_operator.finetunejob.state.observed import Observed
from finetune_operator.finetunejob.state.trimming import trim_job
from finetune_operator.integrations.kueue.workload import WORKLOADS
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import AlreadyExists, Conflict, KubeError, ObjectNotFound
from finetune_operator.kube.api.resource import CONFIG_MAPS, JOBS, PODS, SERVICES, Object, Resource
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import Clock
from finetune_operator.status.conditions import Reason, timestamp

logger = logging.getLogger(__name__)

_RESOURCES: dict[str, Resource] = {"ConfigMap": CONFIG_MAPS, "Service": SERVICES, "Job": JOBS}


class Children:
    """Performs actions. Event loop only.

    Args:
        client: The API client, fenced by the leader election.
        caches: Take the answers, so that the next reconcile sees its own writes.
    """

    def __init__(self, client: KubeClient, caches: Caches, *, clock: Clock) -> None:
        self._client = client
        self._caches = caches
        self._clock = clock
        self._warnings = PodWarnings(client, clock=clock)
        self._refusals = Refusals(clock)

    def forget(self, uid: str) -> None:
        """Drop the memory of a FineTuneJob that is gone or has ended."""
        self._refusals.forget(uid)
        self._warnings.forget(uid)

    async def create_needs(self, observed: Observed, action: CreateStage) -> Observed:
        """Create the objects that a stage's pods need."""
        return await self._create_all(observed, action, action.needs)

    async def create_job(self, observed: Observed, action: CreateStage) -> Observed:
        """Create the Job of a stage; the snapshot then holds it, or why it could not be."""
        if action.stage in observed.refusals:
            return observed
        return await self._create_all(observed, action, (action.job,))

    async def _create_all(
        self, observed: Observed, action: CreateStage, objects: tuple[Object, ...]
    ) -> Observed:
        stage = action.stage
        try:
            for obj in objects:
                answer = await self._create_owned(obj, observed.uid, action.job_digest)
                if obj["kind"] == "Job":
                    self._refusals.forget(observed.uid, stage)
                    observed = self._with_job(observed, stage, answer)
        except (KubeError, NameTaken) as error:
            refusal = self._refusals.explain(observed.uid, stage, error)
            if refusal is None:
                raise
            return replace(observed, refusals={**observed.refusals, stage: refusal})
        return observed

    async def _create_owned(self, obj: Object, uid: str, job_digest: str | None) -> Object:
        """Create an object, or find that an earlier attempt did.

        Raises:
            NameTaken: The name belongs to an object of another owner, or to another job file.
        """
        resource, name = _RESOURCES[obj["kind"]], obj["metadata"]["name"]
        live = await create_owned(
            self._client, resource, obj, lambda live: _controller_uid(live) == uid, noun="job"
        )
        if job_digest and obj["kind"] == "ConfigMap" and digest_of(live) != job_digest:
            raise NameTaken(
                f"{resource.kind} {name} exists and holds another job file than that of the run."
                " Delete it: the job waits until it is gone"
            )
        return live

    def _with_job(self, observed: Observed, stage: Stage, job: Object) -> Observed:
        with self._caches.quiet():
            self._caches.jobs.absorb(job)
        return replace(observed, jobs={**observed.jobs, stage: trim_job(job)})

    async def confirm_missing(self, observed: Observed, action: ConfirmMissing) -> Observed:
        """Read a Job live before it is believed to be gone."""
        live = await find_live(self._client, JOBS, (observed.namespace, action.name))
        if live is not None and _controller_uid(live) == observed.uid:
            return self._with_job(observed, action.stage, live)
        return replace(observed, missing=observed.missing | {action.stage})

    async def look_up_warnings(self, observed: Observed, action: LookUpWarnings) -> Observed:
        """Read why pods do not start, or are not there; what cannot be read is not known."""
        found = await self._warnings.look_up(observed, action)
        return replace(observed, warnings={**observed.warnings, **found})

    async def restore_needs(self, observed: Observed, action: RestoreNeeds) -> Observed:
        """Create again what pods miss; what cannot be stays missing, and the pods tell it."""
        restored = dict(observed.restored)
        for obj in action.objects:
            name = obj["metadata"]["name"]
            restored[name] = False
            try:
                await self._client.create(_RESOURCES[obj["kind"]], obj, field_manager=FIELD_MANAGER)
            except AlreadyExists:
                continue
            except KubeError as error:
                # An exceeded quota also refuses objects that exist already.
                logger.warning("cannot restore %s in %s: %s", name, observed.namespace, error)
                continue
            restored[name] = True
        return replace(observed, restored=restored)

    async def perform(self, observed: Observed, action: Write) -> bool:
        """Perform an action after the status write; return False if its object is gone.

        Raises:
            Conflict: The object changed since the plan. The cache has the new version: plan again.
        """
        namespace = observed.namespace
        try:
            match action:
                case PauseJob(active_seconds=seconds, started=started, why=why):
                    noted: Object = {
                        PAUSED_ANNOTATION: why,
                        ACTIVE_SECONDS_ANNOTATION: str(seconds),
                        ACTIVE_START_ANNOTATION: started,
                    }
                    await self._patch_job(observed, action, _suspend_patch(True, noted))
                case ResumeJob():
                    noted = {PAUSED_ANNOTATION: None}
                    await self._patch_job(observed, action, _suspend_patch(False, noted))
                case ActivateWorkload(name=name, active=active):
                    await self._activate(namespace, name, active=active)
                case RelabelJob(labels=labels):
                    await self._patch_job(observed, action, {"metadata": {"labels": dict(labels)}})
                case FailPod():
                    await self._fail_pod(namespace, action)
                case DeleteSelf():
                    await self._client.delete(
                        FINETUNEJOBS, namespace, observed.name, uid=observed.uid
                    )
        except ObjectNotFound:
            return False
        return True

    async def _fail_pod(self, namespace: str, action: FailPod) -> None:
        """Declare a pod failed, as the pod garbage collector does on nodes out of service."""
        status: Object = {"phase": "Failed", "reason": Reason.NODE_LOST, "message": action.message}
        if not action.is_explained:
            disrupted = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": Reason.NODE_LOST,
                "message": action.message,
                "lastTransitionTime": timestamp(self._clock.now()),
            }
            status["conditions"] = [disrupted]
        metadata = {"name": action.name, "namespace": namespace, "uid": action.uid}
        answer = await self._client.apply(
            PODS,
            {"metadata": metadata, "status": status},
            field_manager=FIELD_MANAGER,
            subresource="status",
        )
        self._caches.pods.absorb(answer)

    async def _activate(self, namespace: str, name: str, *, active: bool) -> None:
        informer = self._caches.workloads_informer
        store = None if informer is None else informer.store
        seen = None if store is None else store.get(namespace, name)
        await self._patch(
            WORKLOADS, namespace, name, {"spec": {"active": active}}, seen=seen, store=store
        )

    async def _patch_job(
        self, observed: Observed, action: PauseJob | ResumeJob | RelabelJob, patch: Object
    ) -> None:
        # Not quiet: the next reconcile acts on the stop.
        await self._patch(
            JOBS,
            observed.namespace,
            action.name,
            patch,
            seen=observed.jobs.get(action.stage),
            store=self._caches.jobs,
        )

    async def _patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Object,
        *,
        seen: Mapping[str, Any] | None,
        store: Store | None,
    ) -> None:
        """Change an object only in the version that was seen, and update the cache at once.

        Another client may have suspended, deleted or recreated it: the next plan decides then.
        """
        if seen is not None:
            kept = ("uid", "resourceVersion")
            precondition = {key: seen["metadata"][key] for key in kept if key in seen["metadata"]}
            patch = {**patch, "metadata": {**patch.get("metadata", {}), **precondition}}
        try:
            answer = await self._client.merge_patch(
                resource, namespace, name, patch, field_manager=FIELD_MANAGER
            )
        except Conflict:
            # Read the version that won now, without waiting for the watch.
            if store is not None:
                store.absorb(await self._client.get(resource, namespace, name))
            raise
        if store is not None:
            store.absorb(answer)


def _suspend_patch(suspend: bool, annotations: Object) -> Object:
    return {"metadata": {"annotations": annotations}, "spec": {"suspend": suspend}}


def _controller_uid(obj: Object) -> str:
    for owner in obj["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner.get("uid") or "")
    return ""
