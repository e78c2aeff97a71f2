"""The batch/v1 Job of a stage: created once, kept as long as the FineTuneJob, never re-applied.

Kueue and the Job controller write to it afterwards; applying it again would fight them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.names import (
    CONTAINER,
    PRIORITY_LABEL,
    QUEUE_LABEL,
    Owner,
    child_job_name,
)
from finetune_api.protocol.trainer import CPU_STAGES, NON_RETRYABLE_EXIT_CODES, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.status.traffic import TrafficPlace
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.pod import render_pod_template


def is_queued(spec: FineTuneJobSpec, stage: Stage) -> bool:
    """Return whether Kueue admits this stage: all that may hold GPUs, if the job names a queue."""
    return bool(spec.queue_name) and stage not in CPU_STAGES


UNLIMITED = 2147483647
"""The Job controller never gives up by itself: it knows pods, the operator counts incidents."""
PUBLISH_RETRIES = 6
"""Of a publication after a job's end nobody counts incidents any more."""


def render_job(
    spec: FineTuneJobSpec,
    stage: Stage,
    owner: Owner,
    config: OperatorConfig,
    *,
    run: int = 1,
    image: str | None = None,
    job_digest: str | None = None,
    data_digest: str | None = None,
    arguments: Sequence[str] = (),
    has_kueue: bool = False,
    traffic: Sequence[TrafficPlace] = (),
) -> dict[str, Any]:
    """Render the Job of a stage.

    Args:
        spec: The user's spec.
        stage: Which stage.
        owner: The FineTuneJob.
        config: The administrator's settings.
        run: Which run of the stage.
        image: What the run's earlier pods are of; None for the first stage.
        job_digest: The only job file that the stage may read; None for that of the ConfigMap,
            whatever it says. A Job's pod template is immutable, a ConfigMap's name is not: somebody
            with rights on ConfigMaps can delete it and create another.
        data_digest: The only data set that the stage may read; None for that of the run, whichever
            it is.
        arguments: What else the stage is told on its command line.
        has_kueue: Whether Kueue may take the Job, also one that names no queue.
        traffic: Where the answers of sources ``traffic://`` lie. Stage ``prepare`` reads them,
            and ``train`` which of them have been deleted.
    """
    nodes = spec.resources.nodes if stage is Stage.TRAIN else 1
    metadata = owner.metadata_of(child_job_name(owner.name, stage, run), stage)
    job_spec: dict[str, Any] = {
        "completions": nodes,
        "parallelism": nodes,
        "completionMode": "Indexed" if stage is Stage.TRAIN else "NonIndexed",
        "backoffLimit": PUBLISH_RETRIES if stage is Stage.PUBLISH else UNLIMITED,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": failure_policy(),
        "template": render_pod_template(
            spec,
            stage,
            owner,
            config,
            image=image,
            job_digest=job_digest,
            data_digest=data_digest,
            arguments=arguments,
            has_kueue=has_kueue,
            traffic=traffic if stage in (Stage.PREPARE, Stage.TRAIN) else (),
        ),
    }
    if stage is Stage.TRAIN:
        # Its pause before a new pod doubles with each failure: per rank, not per pod of the Job.
        job_spec["backoffLimitPerIndex"] = UNLIMITED
    if is_queued(spec, stage):
        assert spec.queue_name is not None
        metadata["labels"][QUEUE_LABEL] = spec.queue_name
        # Kueue's webhook would set it too; said here, no pod leaks where the webhook is absent.
        job_spec["suspend"] = True
    if spec.priority_class_name and stage not in CPU_STAGES:
        # Also without a queue of its own: Kueue puts it into the namespace's, if there is one.
        metadata["labels"][PRIORITY_LABEL] = spec.priority_class_name
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job_spec}


def failure_policy() -> dict[str, Any]:
    """Return what ends a Job at once, and what does not count: whoever takes a pod's node away."""
    values = sorted(int(code) for code in NON_RETRYABLE_EXIT_CODES)
    return {
        "rules": [
            {
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": values},
            },
        ]
    }
