"""What is known of one FineTuneJob at one moment: a frozen snapshot of caches.

Also how objects are trimmed before they enter a cache: only what decisions read is kept, so that
10,000 jobs fit into memory, and so that a change nobody reads wakes nobody.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from finetune_api.names import (
    ACTIVE_SECONDS_ANNOTATION,
    ACTIVE_START_ANNOTATION,
    CONTAINER,
    JOB_LABEL,
    PAUSED_ANNOTATION,
    PRIORITY_LABEL,
    QUEUE_LABEL,
    STAGE_LABEL,
    Owner,
    run_of,
)
from finetune_api.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.finetunejob.decisions import Decision
from finetune_operator.finetunejob.retry import Ledger
from finetune_operator.integrations.kueue.state import QueueState
from finetune_operator.status.conditions import find_condition

Object = dict[str, Any]

_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
_KEPT_LABELS = (JOB_LABEL, STAGE_LABEL, _INDEX_LABEL, QUEUE_LABEL, PRIORITY_LABEL)
_KEPT_ANNOTATIONS = (PAUSED_ANNOTATION, ACTIVE_SECONDS_ANNOTATION, ACTIVE_START_ANNOTATION)
_STAGES = {stage.value: stage for stage in Stage}
_POD_CONDITIONS = frozenset({"PodScheduled", "DisruptionTarget"})
_JOB_CONDITIONS = frozenset({"Complete", "Failed", "Suspended"})
JOB_CONTROLLER = "kubernetes.io/job-controller"
"""What ``spec.managedBy`` of a Job is, if anything, where its pods are made in this cluster."""
_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a child could not be created.

    Attributes:
        reason: Stable cause, such as ``NameTaken``, ``Forbidden`` (quota, rights) or ``Invalid``.
        message: What the API server said, and what to do.
        is_final: Whether trying again cannot help.
        retry_seconds: After how long to try again; it grows with every refusal in a row.
    """

    reason: str
    message: str
    is_final: bool = False
    retry_seconds: float = 10.0


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Snapshot of a FineTuneJob and everything it owns.

    Attributes:
        job: The FineTuneJob as stored.
        parsed: The same, validated; None if ``problem`` says why not.
        problem: Why the spec cannot be read.
        jobs: The trimmed Job of each stage that has one.
        pods: The trimmed pods of each stage.
        queue: Kueue's view of each queued stage.
        ledger: Pods seen so far, for counting attempts.
        missing: Stages whose Job is gone, confirmed by a live read.
        refusals: Stages whose creation the API server refused.
        warnings: Latest warning event of a pod that does not start, by pod name.
        decisions: What people have decided on the job's data; None if that cannot be read.
        has_kueue: Whether Kueue is there to be used.
        restored: Names of objects that were gone and have just been made again; None before that
            was tried.
    """

    job: Object
    parsed: FineTuneJob | None
    problem: str = ""
    jobs: Mapping[Stage, Object] = field(default_factory=_empty)
    pods: Mapping[Stage, tuple[Object, ...]] = field(default_factory=_empty)
    queue: Mapping[Stage, QueueState] = field(default_factory=_empty)
    ledger: Ledger = field(default_factory=Ledger)
    missing: frozenset[Stage] = frozenset()
    refusals: Mapping[Stage, Refusal] = field(default_factory=_empty)
    warnings: Mapping[str, str] = field(default_factory=_empty)
    decisions: tuple[Decision, ...] | None = ()
    has_kueue: bool = False
    restored: frozenset[str] | None = None

    @property
    def name(self) -> str:
        """Name of the FineTuneJob."""
        return str(self.job["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Namespace of the FineTuneJob."""
        return str(self.job["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """UID of the FineTuneJob."""
        return str(self.job["metadata"]["uid"])

    @property
    def owner(self) -> Owner:
        """The FineTuneJob as the owner of its children."""
        return Owner(namespace=self.namespace, name=self.name, uid=self.uid)


def trim_finetunejob(obj: Object) -> Object:
    """Drop what nobody reads of a FineTuneJob: field ownership and kubectl's copy of it."""
    dropped = ("managedFields", "annotations")
    metadata = {key: value for key, value in obj["metadata"].items() if key not in dropped}
    return {**obj, "metadata": metadata}


def trim_job(obj: Object) -> Object:
    """Keep of a batch/v1 Job what decisions read."""
    spec = obj.get("spec") or {}
    status = obj.get("status") or {}
    kept_status = {
        key: status[key]
        for key in ("startTime", "completionTime", "active", "ready", "failed", "succeeded")
        if status.get(key)
    }
    conditions = [
        {
            key: condition.get(key)
            for key in ("type", "status", "reason", "message", "lastTransitionTime")
        }
        for condition in status.get("conditions") or ()
        if condition.get("type") in _JOB_CONDITIONS
    ]
    if conditions:
        kept_status["conditions"] = conditions
    kept_spec = {"suspend": bool(spec.get("suspend")), "completions": spec.get("completions", 1)}
    if spec.get("managedBy") not in (None, JOB_CONTROLLER):
        kept_spec["managedBy"] = spec["managedBy"]
    return {
        "metadata": _trim_metadata(obj["metadata"]),
        "spec": kept_spec,
        "status": kept_status,
    }


def trim_pod(obj: Object) -> Object:
    """Keep of a pod what decisions read."""
    status = obj.get("status") or {}
    kept: Object = {"phase": status.get("phase", "Pending")}
    for key in ("reason", "message"):
        if status.get(key):
            kept[key] = status[key]
    conditions = [
        {
            key: condition.get(key)
            for key in ("type", "status", "reason", "message", "lastTransitionTime")
        }
        for condition in status.get("conditions") or ()
        if condition.get("type") in _POD_CONDITIONS
        and not (condition["type"] == "PodScheduled" and condition.get("status") == "True")
    ]
    if conditions:
        kept["conditions"] = conditions
    if kept["phase"] == "Pending":
        scheduled = find_condition(status.get("conditions"), "PodScheduled") or {}
        if scheduled.get("status") == "True" and scheduled.get("lastTransitionTime"):
            kept["scheduledTime"] = scheduled["lastTransitionTime"]
    for container in status.get("containerStatuses") or ():
        if container.get("name") == CONTAINER:
            kept["container"] = _trim_state(container.get("state") or {})
            if container.get("imageID"):
                # The same few for thousands of pods.
                kept["imageID"] = sys.intern(container["imageID"])
    spec = obj.get("spec") or {}
    kept_spec: Object = {"nodeName": spec.get("nodeName", "")}
    for container in spec.get("containers") or ():
        if container.get("name") == CONTAINER and container.get("image"):
            kept_spec["image"] = sys.intern(container["image"])
    return {"metadata": _trim_metadata(obj["metadata"]), "spec": kept_spec, "status": kept}


def _trim_metadata(metadata: Object) -> Object:
    kept: Object = {key: metadata[key] for key in _METADATA if metadata.get(key)}
    labels = metadata.get("labels") or {}
    kept["labels"] = {key: labels[key] for key in _KEPT_LABELS if key in labels}
    annotations = metadata.get("annotations") or {}
    own = {key: annotations[key] for key in _KEPT_ANNOTATIONS if key in annotations}
    if own:
        kept["annotations"] = own
    owners = [
        {"kind": owner.get("kind"), "name": owner.get("name"), "uid": owner.get("uid")}
        for owner in metadata.get("ownerReferences") or ()
        if owner.get("controller")
    ]
    if owners:
        kept["owner"] = owners[0]
    return kept


def _trim_state(state: Object) -> Object:
    if "terminated" in state:
        ended = state["terminated"]
        return {
            "terminated": {
                key: ended[key]
                for key in ("exitCode", "reason", "message", "startedAt", "finishedAt", "signal")
                if ended.get(key) is not None
            }
        }
    if "running" in state:
        return {"running": {"startedAt": state["running"].get("startedAt")}}
    waiting = state.get("waiting") or {}
    return {"waiting": {key: waiting[key] for key in ("reason", "message") if waiting.get(key)}}


def is_changed(old: Object | None, new: Object) -> bool:
    """Return whether a trimmed child differs in anything that decisions read."""
    if old is None:
        # A newborn says nothing that was not known from creating its Job.
        return new["status"] not in ({}, {"phase": "Pending"})
    if old["status"] != new["status"] or old["spec"] != new["spec"]:
        return True
    before, after = old["metadata"], new["metadata"]
    read = ("deletionTimestamp", "annotations", "labels")
    return any(before.get(key) != after.get(key) for key in read)


def owner_uid(obj: Object) -> str:
    """Return the UID of the controller of a trimmed object, or the empty string."""
    return str((obj["metadata"].get("owner") or {}).get("uid") or "")


def stage_of(obj: Object) -> Stage | None:
    """Return the stage a trimmed object belongs to, by its label."""
    text = (obj["metadata"].get("labels") or {}).get(STAGE_LABEL)
    return _STAGES.get(str(text))


def newest_runs(jobs: Iterable[Object]) -> dict[Stage, Object]:
    """Return of each stage the trimmed Job of its newest run."""
    found: dict[Stage, Object] = {}
    for job in sorted(jobs, key=lambda job: run_of(job["metadata"]["name"])):
        stage = stage_of(job)
        if stage is not None:
            found[stage] = job
    return found


def completion_index(pod: Object) -> int:
    """Return the rank of a pod's node; 0 for Jobs that are not indexed."""
    text = str((pod["metadata"].get("labels") or {}).get(_INDEX_LABEL) or "0")
    return int(text) if text.isdigit() else 0
