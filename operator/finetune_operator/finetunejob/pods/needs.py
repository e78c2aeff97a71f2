"""What the pods of a stage need beside their Job, and what of it is found to be gone."""

from __future__ import annotations

import re
from typing import Any

from finetune_api.names import config_map_name
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.render.config import digest_of, render_config_map
from finetune_operator.finetunejob.render.service import render_service
from finetune_operator.finetunejob.state.actions import RestoreNeeds
from finetune_operator.finetunejob.state.draft import JobDraft
from finetune_operator.finetunejob.state.stages import StageView
from finetune_operator.finetunejob.state.step import Step

Object = dict[str, Any]


def needs_of(step: Step, spec: FineTuneJobSpec, stage: Stage) -> tuple[Object, ...]:
    """Return what is created before the Job of a stage."""
    needs: list[Object] = [_config_map(step)] if stage is Stage.PREPARE else []
    if _has_rendezvous(spec, stage):
        needs.append(render_service(step.observed.owner, step.config))
    return tuple(needs)


def settle_job_digest(step: Step) -> None:
    """Record which job file the run reads once its first Job is there, once for all.

    The operator of another version may write the same job in other bytes. What the Job itself says
    counts for nothing: somebody else may have made it.
    """
    if Stage.PREPARE in step.observed.jobs and _is_unsettled(step.draft, step.observed.job):
        step.draft.put("jobDigest", digest_of(_config_map(step)))


def job_digest_of(step: Step, stage: Stage, run: int, needs: tuple[Object, ...]) -> str | None:
    """Return the only job file that a stage may read; None of a run begun without one.

    Args:
        step: The plan so far.
        stage: The stage whose Job is created.
        run: Which run of it.
        needs: What is created before it; of stage ``prepare`` the ConfigMap comes first.
    """
    if stage is Stage.PREPARE and run == 1 and _is_unsettled(step.draft, step.observed.job):
        return digest_of(needs[0])
    settled: str | None = step.draft.get("jobDigest")
    return settled


def _is_unsettled(draft: JobDraft, job: Object) -> bool:
    """Whether no status names the job file, nor tells of a Job from before one was named."""
    stored = job.get("status") or {}
    return not draft.get("jobDigest") and not stored.get("stages")


def restore_lost(step: Step, view: StageView) -> None:
    """Make the ConfigMap again if the kubelet misses it: somebody deleted it."""
    observed = step.observed
    name = config_map_name(observed.name)
    # In the singular from the kubelet's cache, in the plural from the API server.
    missed = re.compile(f'configmaps? "{re.escape(name)}" not found')
    told = [observed.warnings.get(pod["metadata"]["name"]) for pod in view.pods]
    if not any(missed.search(warning.message) for warning in told if warning is not None):
        return
    _restore(step, _config_map(step), "Pods of the job start with it.")


def restore_rendezvous(step: Step, spec: FineTuneJobSpec, stage: Stage) -> None:
    """Make the Service of several nodes again if it is gone, before ranks look for each other.

    Nothing tells that it is: ranks without it end as those that lost a peer. So it is tried where
    they are about to start; as a rule it is there, and costs one request.
    """
    if _has_rendezvous(spec, stage):
        service = render_service(step.observed.owner, step.config)
        _restore(step, service, "Ranks find each other by it when they start.")


def _has_rendezvous(spec: FineTuneJobSpec, stage: Stage) -> bool:
    return stage is Stage.TRAIN and spec.resources.nodes > 1


def _restore(step: Step, obj: Object, use: str) -> None:
    """Create an object again if it is gone, and then tell it."""
    name = obj["metadata"]["name"]
    was_gone = step.observed.restored.get(name)
    if was_gone is None:
        step.first.append(RestoreNeeds(objects=(obj,)))
    elif was_gone:
        message = f"{obj['kind']} {name} was deleted; it is there again. {use}"
        step.draft.announce("Restored", message, warning=True)


def _config_map(step: Step) -> Object:
    observed = step.observed
    assert observed.parsed is not None
    return render_config_map(
        observed.parsed,
        observed.owner,
        required_approvals=step.approval_policy.required,
        traffic=step.traffic,
    )
