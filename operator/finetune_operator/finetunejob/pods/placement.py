"""Ranks that hold GPUs while others find no node: all release their nodes and try again together.

Without a queue each pod is placed by itself. Two jobs that each have half of what they need wait
for each other for ever. So does a job whose node was lost and not replaced: its other ranks hold
their GPUs and train nothing. Kueue admits all pods or none, so Jobs in its queues are skipped.
"""

from __future__ import annotations

from datetime import datetime

from finetune_api.names import PAUSED_ANNOTATION
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.pods.needs import restore_rendezvous
from finetune_operator.finetunejob.pods.pausing import is_kueues
from finetune_operator.finetunejob.state.actions import PauseJob, ResumeJob
from finetune_operator.finetunejob.state.observed import Observed
from finetune_operator.finetunejob.state.stages import TRAITS, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.finetunejob.state.trimmed import TrimmedPod
from finetune_operator.status.conditions import Reason, find_condition, parse_timestamp

PLACEMENT = "placement"
"""Value of the pause annotation of a Job that was paused because not all its pods had a node."""
RELEASE_SECONDS = 300.0
"""How long the nodes are free for other jobs before the ranks try again."""


def release_nodes(step: Step, view: StageView) -> bool:
    """Stop a stage if some of its pods found no node for too long; return whether it is."""
    limit = step.config.placement_deadline_seconds
    if not limit or view.job is None or is_kueues(step.observed, view):
        return False
    alive = [pod for pod in view.pods if pod["status"]["phase"] in ("Pending", "Running")]
    waits = [since for pod in alive if (since := _unplaced_since(pod)) is not None]
    if not waits or len(waits) == len(alive):
        return False
    left = limit - (step.now - min(waits)).total_seconds()
    if left > 0:
        step.look_again(left)
        return False
    message = (
        f"{len(waits)} of {len(alive)} pods found no node for {limit} s, while the others held"
        f" theirs. All were stopped and try again in {RELEASE_SECONDS:.0f} s, from the last"
        " checkpoint. Add nodes, ask for fewer, or let Kueue admit all at once (spec.queueName)."
    )
    conditions = step.draft.conditions
    step.draft.announce(Reason.NODES_RELEASED, f"{view.stage.value}: {message}", warning=True)
    conditions.set(TRAITS[view.stage].condition, False, Reason.NODES_RELEASED, message)
    step.then.append(
        PauseJob(
            stage=view.stage,
            name=view.job["metadata"]["name"],
            active_seconds=view.active_seconds,
            started=view.job["status"].get("startTime") or "",
            why=PLACEMENT,
        )
    )
    return True


def has_released_nodes(observed: Observed, view: StageView) -> bool:
    """Return whether a suspended Job was suspended because its pods found no nodes."""
    if is_kueues(observed, view):
        return False
    annotations = view.job["metadata"].get("annotations") or {} if view.job else {}
    return annotations.get(PAUSED_ANNOTATION) == PLACEMENT


def resume_after_release(step: Step, spec: FineTuneJobSpec, view: StageView) -> None:
    """Start the pods of a stage that released its nodes again once the pause is over."""
    assert view.job is not None
    stopped = find_condition(view.job["status"].get("conditions"), "Suspended") or {}
    since = parse_timestamp(stopped.get("lastTransitionTime"))
    if not view.is_stopped or since is None:
        return  # its pods are being stopped
    left = RELEASE_SECONDS - (step.now - since).total_seconds()
    if left > 0:
        step.look_again(left)
    else:
        restore_rendezvous(step, spec, view.stage)
        step.then.append(ResumeJob(stage=view.stage, name=view.job["metadata"]["name"]))


def _unplaced_since(pod: TrimmedPod) -> datetime | None:
    scheduled = find_condition(pod["status"].get("conditions"), "PodScheduled") or {}
    if scheduled.get("status") != "False" or scheduled.get("reason") != "Unschedulable":
        return None
    return parse_timestamp(scheduled.get("lastTransitionTime"))
