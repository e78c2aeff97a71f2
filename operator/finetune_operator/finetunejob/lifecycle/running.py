"""A stage whose Job is there and not over: it runs, waits for its pods, or cannot start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from finetune_api.protocol.trainer import ExitCode, FailureClass, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.lifecycle.accounting import account
from finetune_operator.finetunejob.pods.incidents import SETTLE_SECONDS, find_incidents
from finetune_operator.finetunejob.pods.lingering import set_lingering
from finetune_operator.finetunejob.pods.needs import restore_lost, restore_rendezvous
from finetune_operator.finetunejob.pods.outages import has_run, is_released, note_recovery, wait_out
from finetune_operator.finetunejob.pods.placement import release_nodes
from finetune_operator.finetunejob.pods.refused_pods import tell_refused
from finetune_operator.finetunejob.pods.rounds import fruitless_rounds
from finetune_operator.finetunejob.pods.silence import judge_reports
from finetune_operator.finetunejob.pods.unstarted import (
    STUCK_SECONDS,
    cause_of_waiting,
    is_stuck,
    seconds_waiting,
    why_slow,
)
from finetune_operator.finetunejob.publication.endings import fail_stage
from finetune_operator.finetunejob.render.resources import memory_of
from finetune_operator.finetunejob.state.actions import LookUpWarnings
from finetune_operator.finetunejob.state.failure import Cause, latest_cause
from finetune_operator.finetunejob.state.retry import Ledger, is_lost
from finetune_operator.finetunejob.state.stages import TRAITS, StageState, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import ConditionType, Reason, parse_timestamp

RECHECK_SECONDS = 30.0
PLACING_SECONDS = 30.0
"""A pod that no node takes for less is not told of: the one before it may still be in its place."""
WARNING_SECONDS = 180.0
"""For how long the kubelet's warnings of a pod are believed; it repeats them every two minutes."""
_OF_NODES = (FailureClass.UNSCHEDULABLE, FailureClass.RETRYABLE)
"""Classes of a start that waits for a node, or for one to be well: the job asks for nothing
wrong."""

_ENDLESS = (
    "Check that the pods of the job reach each other (NetworkPolicy, DNS,"
    " resources.network.interface) and that their nodes have memory left."
)
_BRINGS_DOWN = (
    "Do they bring their nodes down? Look at the kernel's log of the nodes in"
    " status.attempts.history: memory that ran out, or the GPU's driver (Xid)."
)


def set_running(step: Step, spec: FineTuneJobSpec, view: StageView) -> None:
    """Say whether a stage runs or waits for its pods; end the job if it gets nowhere."""
    memory = memory_of(spec, view.stage, step.config)
    incidents = find_incidents(view.pods, step.now, memory=memory, has_peers=view.has_peers)
    if not all(incident.is_settled for incident in incidents):
        # One of the pods that still run may have failed first.
        step.look_again(SETTLE_SECONDS)
        return
    given_up = account(step, spec, view, incidents) or _cause_of_giving_up(
        step.observed.ledger, spec, view
    )
    if given_up is not None and not view.is_ending:
        fail_stage(step, view, given_up)
        return
    if is_released(step.draft, view):
        return
    note_recovery(step, view)
    if release_nodes(step, view) or set_lingering(step, view):
        return
    problem = _problem_of_start(step, view)
    if problem is not None and not _may_pass(step, problem):
        _record_problem(step, view, problem)
        return
    if tell_refused(step, view):
        return
    cause = latest_cause(view.pods, memory=memory)
    cause = next((each.cause for each in incidents if cause and cause.pod in each.pods), cause)
    if cause is not None and step.draft.note_failure(cause, view.stage):
        where = f" on {cause.node}" if cause.node else ""
        text = f"{view.stage.value}: pod {cause.pod}{where}: {cause.reason}: {cause.message}"
        step.draft.announce("Retrying", text, warning=True)
        if cause.exit_code == ExitCode.RETRYABLE:
            restore_rendezvous(step, spec, view.stage)
    _set_stage_condition(step, view, cause)


def _set_stage_condition(step: Step, view: StageView, cause: Cause | None) -> None:
    """Say whether a stage is at work, or which pod it waits for; nothing is wrong with any."""
    traits, conditions = TRAITS[view.stage], step.draft.conditions
    slow = next((text for pod in view.pods if (text := why_slow(pod, step.now))), None)
    if slow is not None:
        conditions.set(traits.condition, False, Reason.WAITING_FOR_PODS, slow)
    elif view.stage is Stage.TRAIN and view.state is StageState.RUNNING:
        _set_training(step, view)
    elif cause is not None and view.state is StageState.WAITING:
        message = f"Waiting for the next pod after {cause.reason}: {cause.message}"
        conditions.set(traits.condition, False, Reason.RETRYING, message)
    else:
        # The same words whether the pod is young or runs: not worth a write of its own.
        assert view.job is not None
        text = traits.under_way.format(job=view.job["metadata"]["name"])
        conditions.set(traits.condition, False, traits.under_way_reason, text)


def _set_training(step: Step, view: StageView) -> None:
    draft = step.draft
    if not draft.is_true(ConditionType.TRAINING):
        draft.announce("TrainingStarted", f"Training started: {_pods_text(view)}")
    reason, message = judge_reports(step, view)
    is_new = draft.conditions.reason_of(ConditionType.TRAINING) != reason
    if reason is Reason.NO_RECENT_PROGRESS and is_new:
        draft.announce(reason, message, warning=True)
    draft.conditions.set(ConditionType.TRAINING, True, reason, message)


def _pods_text(view: StageView) -> str:
    nodes = sorted({pod["spec"]["nodeName"] for pod in view.pods if pod["spec"]["nodeName"]})
    count = len([pod for pod in view.pods if pod["status"]["phase"] in ("Running", "Succeeded")])
    where = f" on {', '.join(nodes[:8])}" if nodes else ""
    return f"{count} pod{'' if count == 1 else 's'}{where}"


def _cause_of_giving_up(ledger: Ledger, spec: FineTuneJobSpec, view: StageView) -> Cause | None:
    """Explain why a stage that the Job controller would start for ever is given up, if so."""
    rounds = fruitless_rounds(view.pods, ledger)
    if rounds.count <= spec.backoff_limit + 1:
        return None
    lost = [pod for pod in rounds.pods if is_lost(pod)]
    is_of_nodes = 2 * len(lost) > rounds.count
    cause = latest_cause(lost if is_of_nodes else rounds.pods)
    if cause is None:
        return None
    if is_of_nodes:
        message = (
            f"{rounds.count} times in a row, more than backoffLimit + 1, the pods ended before a"
            f" new step was made, because a node or its container runtime was restarted: the last"
            f" one {cause.pod} on {cause.node}. {_BRINGS_DOWN}"
        )
        return replace(cause, message=message)
    message = (
        f"{rounds.count} times in a row, more than backoffLimit + 1, the pods ended with exit"
        f" code {int(ExitCode.RETRYABLE)} before a new step was made. {_ENDLESS} The last one:"
        f" {cause.message}"
    )
    return replace(cause, message=message)


# ---- pods that do not start --------------------------------------------------------------------


def _record_problem(step: Step, view: StageView, problem: Cause) -> None:
    draft, stage = step.draft, view.stage
    before = draft.get("lastFailure") or {}
    is_new = draft.conditions.reason_of(TRAITS[stage].condition) != before.get("reason")
    if not is_new:
        problem = _since_it_began(problem, stage, before)
    if draft.note_failure(problem, stage, is_new=is_new):
        draft.announce(problem.reason, f"{stage.value}: {problem.message}", warning=True)
    if _is_start_overdue(step, problem):
        if has_run(step.draft, step.observed.ledger.step, view) and not problem.is_hopeless:
            given_up = wait_out(step, view, problem)
        else:
            given_up = problem
        if given_up is not None:
            fail_stage(step, view, given_up)
        return
    draft.conditions.set(TRAITS[stage].condition, False, problem.reason, problem.message)


def _problem_of_start(step: Step, view: StageView) -> Cause | None:
    warnings = step.observed.warnings
    stuck = [pod for pod in view.pods if is_stuck(pod, step.now)]
    unknown = [name for pod in stuck if (name := pod["metadata"]["name"]) not in warnings]
    if unknown:
        since = step.now - timedelta(seconds=WARNING_SECONDS)
        step.first.append(LookUpWarnings(kind="Pod", names=tuple(unknown), since=since))
        return None
    restore_lost(step, view)
    found: Cause | None = None
    for pod in view.pods:
        if pod["status"]["phase"] == "Pending":
            age = seconds_waiting(pod, step.now)
            step.look_again(RECHECK_SECONDS if age >= STUCK_SECONDS else STUCK_SECONDS - age)
        warning = warnings.get(pod["metadata"]["name"])
        cause = cause_of_waiting(pod, step.now, warning=warning)
        if cause is not None and (found is None or cause.is_hopeless):
            found = cause
    return found


def _may_pass(step: Step, problem: Cause) -> bool:
    """Return whether a pod has waited for a node for so short a time that it means nothing."""
    began = parse_timestamp(problem.time)
    if problem.failure_class is not FailureClass.UNSCHEDULABLE or began is None:
        return False
    left = PLACING_SECONDS - (step.now - began).total_seconds()
    if left <= 0:
        return False
    step.look_again(left)
    return True


def _since_it_began(problem: Cause, stage: Stage, before: Mapping[str, Any]) -> Cause:
    """Date a failing start back to the first time it was told; its reasons alternate.

    So may their classes. Only waiting for a node and failing because of the job are two things, of
    which neither is dated back to the other.
    """
    wire = problem.to_wire(stage)
    if any(before.get(key) != wire.get(key) for key in ("stage", "pod")):
        return problem
    if (before.get("class") in _OF_NODES) != (problem.failure_class in _OF_NODES):
        return problem
    return replace(problem, time=before.get("time") or problem.time)


def _is_start_overdue(step: Step, problem: Cause) -> bool:
    """Return whether a start has failed for too long; nodes are waited for without a limit."""
    if problem.failure_class in _OF_NODES:
        return False
    if problem.is_hopeless:
        return True
    began = parse_timestamp(problem.time) or step.now
    left = step.config.image_pull_deadline_seconds - (step.now - began).total_seconds()
    if left <= 0:
        return True
    step.look_again(left)
    return False
