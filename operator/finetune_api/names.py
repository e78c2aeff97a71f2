"""Names, labels and annotations of what belongs to the kinds of this API.

All names are derived, so a second creation finds the name taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.meta import API_VERSION, KIND
from finetune_api.protocol.trainer import OF_SCHEDULE_LABEL, OF_SWEEP_LABEL, Stage

JOB_LABEL = "finetune.dev/job"
"""Name of the FineTuneJob, on Jobs and pods."""
STAGE_LABEL = "finetune.dev/stage"
"""Stage, on Jobs and pods."""
SWEEP_LABEL = OF_SWEEP_LABEL
"""Name of the FineTuneSweep, on its FineTuneJobs."""
SCHEDULE_LABEL = OF_SCHEDULE_LABEL
"""Name of the FineTuneSchedule, on its FineTuneJobs."""
TRIAL_LABEL = "finetune.dev/trial"
"""Number of a trial, from 1, on a FineTuneJob of a sweep."""
REPLICATE_LABEL = "finetune.dev/replicate-of"
"""Number of the trial that a replicate repeats, on a FineTuneJob of a sweep."""
SERVING_LABEL = "finetune.dev/serving"
"""``front`` or ``server``, on Deployments, Services and pods that serve a namespace's endpoints."""
SERVER_LABEL = "finetune.dev/server"
"""Name of the server Deployment, on what belongs to it."""
MONITOR_LABEL = "finetune.dev/monitor"
"""Name of the FineTuneEndpoint, on Jobs and pods that look at its captured answers."""
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "finetune-operator"

SKIP_STEPS_ANNOTATION = "finetune.dev/skip-steps"
"""On a FineTuneEndpoint: the number of a version whose rollout takes no more steps."""
TRIGGER_ANNOTATION = "finetune.dev/trigger"
"""On a FineTuneSchedule: each new value begins one cycle."""
MAX_TRIGGER_CHARACTERS = 64
"""Of a longer value the status keeps the digest."""
PAUSED_ANNOTATION = "finetune.dev/paused"
"""On a child Job that the operator (not Kueue, not a person) suspended."""
ACTIVE_SECONDS_ANNOTATION = "finetune.dev/active-seconds"
"""On a child Job: its running time in seconds up to the last pause, noted in the same patch."""
ACTIVE_START_ANNOTATION = "finetune.dev/active-start"
"""On a child Job: the ``status.startTime`` of the run that the running time includes already."""

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Kueue's: on a child Job that waits in a LocalQueue."""
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
"""Kueue's: WorkloadPriorityClass of a child Job."""

RESERVED_PREFIXES = ("finetune.dev/", "kueue.x-k8s.io/")
"""Label keys that tenants may not set on pods."""

CONTAINER = "trainer"
"""Name of every pod's container that runs the stage."""
ENGINE_CONTAINER = "vllm"
"""Name of the container beside it that answers an evaluation's questions, where there is one."""
RED_TEAM_CONTAINER = "garak"
"""Name of the container beside both that attacks the models, where there is one."""

AGENT_CONTAINER = "agent"
"""Container of a server pod that loads versions and is the pod's one listener."""
SERVING_ENGINE_CONTAINER = "engine"
"""Container of a server pod that computes answers, on the loopback interface only."""
FRONT_CONTAINER = "front"
"""Container of a front pod."""
FRONT = "finetune-front"
"""Deployment and Service through which the endpoints of a namespace are asked."""
SERVING = "finetune-serving"
"""ServiceAccount of front and server pods, its Role and its RoleBinding."""
SERVING_TOKEN_SECRET = "finetune-serving-token"  # noqa: S105 - a name, not a secret
"""Secret with the token by which server pods know the front."""
SERVER_PREFIX = "fts-"
"""What the names of server Deployments and Services begin with."""
SERVER_DIGEST_LENGTH = 24
"""96 bits: nobody finds settings whose server has the name of another one."""


def child_job_name(name: str, stage: Stage, run: int = 1) -> str:
    """Return the name of the batch/v1 Job of a stage.

    Args:
        name: Name of the FineTuneJob.
        stage: The stage.
        run: Counts from 1; higher where a stage ran again because its result was lost.
    """
    return f"{name}-{stage.value}" if run == 1 else f"{name}-{stage.value}-{run}"


def run_of(job_name: str) -> int:
    """Return which run of its stage a batch/v1 Job is; the reverse of :func:`child_job_name`."""
    text = job_name.rpartition("-")[2]
    return int(text) if text.isdecimal() else 1


def traffic_prefix(namespace: str, endpoint: str) -> str:
    """Return where the captured answers of an endpoint lie below ``capture.uri``."""
    return f"traffic/{namespace}/{endpoint}"


def look_name(endpoint: str, until_seconds: float) -> str:
    """Return the name of the Job that looks at an endpoint's answers until a time.

    Args:
        endpoint: Name of the FineTuneEndpoint, with at most 52 characters.
        until_seconds: Unix time.
    """
    return f"{endpoint}-m{int(until_seconds) // 60}"


def trial_name(sweep: str, number: int) -> str:
    """Return the name of the FineTuneJob of a sweep's trial, which counts from 1."""
    return f"{sweep}-t{number}"


def trial_number(sweep: str, name: str) -> int | None:
    """Return the trial number in a FineTuneJob's name, the reverse of :func:`trial_name`, or None.

    A name is immutable, a label is not.
    """
    text = name.rpartition("-t")[2]
    is_trial = text.isdecimal() and int(text) > 0 and trial_name(sweep, int(text)) == name
    return int(text) if is_trial else None


def config_map_name(name: str) -> str:
    """Return the name of the ConfigMap that holds ``job.json``."""
    return f"{name}-job"


def service_name(name: str) -> str:
    """Return the name of the headless Service of a job of several nodes."""
    return child_job_name(name, Stage.TRAIN)


def adapter_name(namespace: str, job: str, version: int) -> str:
    """Return the name that a published version is loaded under. It never names anything else."""
    return f"{namespace}.{job}-v{version}"


def asked_trigger(schedule: Mapping[str, Any]) -> str:
    """Return what a person has asked a FineTuneSchedule for, as its status keeps it.

    It is the value of the annotation, or its digest; empty if nobody has asked.
    """
    annotations = schedule["metadata"].get("annotations") or {}
    value = str(annotations.get(TRIGGER_ANNOTATION) or "")
    if len(value) <= MAX_TRIGGER_CHARACTERS:
        return value
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def published_name(job: Mapping[str, Any]) -> str:
    """Return the name that versions of a stored FineTuneJob are published under."""
    output = (job.get("spec") or {}).get("output") or {}
    return str(output.get("publishAs") or job["metadata"]["name"])


def run_uid(job: Mapping[str, Any]) -> str:
    """Return the UID in the run folder of a stored FineTuneJob: its own, or a taken over one."""
    dataset = (job.get("status") or {}).get("dataset") or {}
    return str((dataset.get("takenOver") or {}).get("uid") or job["metadata"]["uid"])


def server_name(digest: str) -> str:
    """Return the name of the server Deployment and Service of a base model and its settings.

    Args:
        digest: SHA-256 of both, in hex digits.
    """
    return SERVER_PREFIX + digest[:SERVER_DIGEST_LENGTH]


def front_url(namespace: str) -> str:
    """Return the base URL of the API of all endpoints of a namespace."""
    return f"http://{FRONT}.{namespace}.svc/v1"


def labels_of(name: str, stage: Stage | None = None) -> dict[str, str]:
    """Return the labels of an object of this job."""
    labels = {JOB_LABEL: name, MANAGED_BY_LABEL: MANAGED_BY}
    if stage is not None:
        labels[STAGE_LABEL] = stage.value
    return labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The object that names, labels and owner references of children come from.

    Attributes:
        namespace: Its namespace and that of its children.
        uid: Its UID, which tells it from later objects of the same name.
    """

    namespace: str
    name: str
    uid: str
    kind: str = KIND

    def reference(self) -> dict[str, Any]:
        """Return the reference that lets the garbage collector delete children with their owner.

        ``blockOwnerDeletion`` stays false: true needs rights on finalizers where the
        OwnerReferencesPermissionEnforcement admission plugin is on.
        """
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }

    def metadata_of(self, child: str, stage: Stage | None = None) -> dict[str, Any]:
        """Return the metadata of a child object."""
        return {
            "name": child,
            "namespace": self.namespace,
            "labels": labels_of(self.name, stage),
            "ownerReferences": [self.reference()],
        }
