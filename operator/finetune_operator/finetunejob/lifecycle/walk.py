"""The life of a FineTuneJob that has not ended: its stages, one after the other.

The walk stops at the first stage that is not over. It knows neither their number nor their names:
what is special to a stage stands in :data:`~finetune_operator.finetunejob.state.stages.TRAITS`.
"""

from __future__ import annotations

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.holds.estimate import set_estimate
from finetune_operator.finetunejob.holds.pruning import PHASE, is_pruned, needs_score, prune
from finetune_operator.finetunejob.lifecycle.acceptance import accept, find_breach
from finetune_operator.finetunejob.lifecycle.accounting import account
from finetune_operator.finetunejob.lifecycle.budget import is_spent, set_cost
from finetune_operator.finetunejob.lifecycle.deadlines import is_overdue, seconds_to_live
from finetune_operator.finetunejob.lifecycle.queueing import is_being_evicted, set_quota
from finetune_operator.finetunejob.lifecycle.running import set_running
from finetune_operator.finetunejob.lifecycle.starting import (
    is_kept_waiting,
    miss,
    run_again_text,
    start,
    start_again,
)
from finetune_operator.finetunejob.lifecycle.stopping import awaits_result, forget_cut
from finetune_operator.finetunejob.pods.image import settle_image
from finetune_operator.finetunejob.pods.incidents import find_incidents
from finetune_operator.finetunejob.pods.lingering import declare_lost
from finetune_operator.finetunejob.pods.needs import settle_job_digest
from finetune_operator.finetunejob.pods.outages import is_waiting_out
from finetune_operator.finetunejob.pods.pausing import set_suspended, suspend_or_resume, wake
from finetune_operator.finetunejob.pods.placement import has_released_nodes, resume_after_release
from finetune_operator.finetunejob.publication.endings import (
    cause_of_end,
    close_progress,
    conclude,
    fail_stage,
    store_late_result,
    succeed,
)
from finetune_operator.finetunejob.publication.publishing import has_work
from finetune_operator.finetunejob.render.resources import memory_of
from finetune_operator.finetunejob.state.decisions import ApprovalPolicy, needs_digest
from finetune_operator.finetunejob.state.draft import JobDraft
from finetune_operator.finetunejob.state.results import is_verdict
from finetune_operator.finetunejob.state.retry import Ledger
from finetune_operator.finetunejob.state.stages import TRAITS, StageState, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import ConditionType, Reason
from finetune_operator.status.phase import phase_of, reason_of


def walk(step: Step) -> None:
    """Decide what to do about a job that has not ended."""
    spec = accept(step)
    if spec is not None:
        settle_image(step)
        settle_job_digest(step)
        step.draft.drop("queue")  # told anew by the stage that stands in one
        set_estimate(step, spec)
        suspend_or_resume(step, spec)
        # What is pruned is stopped anyway, and has not failed.
        if spec.prune or not (is_overdue(step, spec) or is_spent(step, spec)):
            _walk_stages(step, spec)
        set_cost(step, spec)
    _count_attempts(step.draft, step.observed.ledger)
    if step.draft.conditions.status_of(ConditionType.ACCEPTED) != "Unknown":
        _set_phase(step)


def _walk_stages(step: Step, spec: FineTuneJobSpec) -> None:
    for view in step.views:
        has_begun = view.job is not None or bool(step.draft.last_run(view.stage))
        if not (has_begun or has_work(view.stage, spec, step.views)):
            continue
        if not _advance(step, spec, view):
            return
    conclude(step, spec)


def _advance(step: Step, spec: FineTuneJobSpec, view: StageView) -> bool:
    """Take one stage as far as it goes; return whether the next one may start."""
    draft = step.draft
    if draft.is_done(view.stage):
        store_late_result(step, view)
        return True
    step.current = view
    if is_pruned(spec, step.approval_policy, view):
        _record(step, view)
        why = "spec.prune ends the job."
        if not awaits_result(step, spec, view, reason=Reason.PRUNE_REQUESTED, why=why):
            prune(step, view)
        return False
    if breach := find_breach(step, spec, view):
        _record(step, view)
        if not awaits_result(step, spec, view, reason=breach.reason, why=breach.message):
            fail_stage(step, view, breach)
        return False
    if not spec.prune:
        forget_cut(step)  # no limit is reached any more
    if view.run < draft.last_run(view.stage):
        miss(step, spec, view)
        return False
    if view.state is StageState.ABSENT:
        start(step, spec, view)
        return False
    if max(1, draft.last_run(view.stage)) < view.run:
        draft.announce(Reason.RESULT_NOT_REPORTED, run_again_text(view.stage), warning=True)
    _record(step, view)
    if view.has_ended:
        return _end(step, spec, view)
    declare_lost(step, view)
    set_quota(step, spec, view)
    if draft.is_true(ConditionType.FAILED):
        return False
    if is_kept_waiting(step, spec, view) or is_waiting_out(step, spec, view):
        return False
    if (
        view.state is StageState.SUSPENDED
        and has_released_nodes(step.observed, view)
        and not spec.suspend
    ):
        resume_after_release(step, spec, view)
    elif wake(step, spec, view):
        pass  # what held it is over
    elif view.state is StageState.SUSPENDED or is_being_evicted(step.observed, view):
        set_suspended(step, spec, view)
    else:
        set_running(step, spec, view)
    return False


def _record(step: Step, view: StageView) -> None:
    """Record the Job of a stage, where there is one; with the first, the job has begun."""
    if view.job is None:
        return
    step.draft.record_stage(view)
    if step.draft.get("startTime") is None:
        step.draft.put("startTime", view.job["metadata"].get("creationTimestamp"))


def _end(step: Step, spec: FineTuneJobSpec, view: StageView) -> bool:
    """Record the end of a stage once its pods have told it; return whether it succeeded."""
    if not view.is_settled(step.now):
        step.look_again(1.0)
        return False
    memory = memory_of(spec, view.stage, step.config)
    incidents = find_incidents(view.pods, step.now, memory=memory, has_peers=view.has_peers)
    given_up = account(step, spec, view, incidents)
    if view.state is StageState.SUCCEEDED and _lacks_result(spec, step.approval_policy, view):
        if view.result is not None:
            succeed(step, view)  # it has read an evaluation that still waits for somebody
        start_again(step, spec, view)
        return False
    step.draft.record_end(view)
    if view.state is StageState.SUCCEEDED:
        succeed(step, view)
        return True
    fail_stage(step, view, given_up or cause_of_end(view, memory=memory, now=step.now))
    return False


def _lacks_result(spec: FineTuneJobSpec, policy: ApprovalPolicy, view: StageView) -> bool:
    """Return whether a stage must run again: how the job goes on rests on a result that is lost."""
    is_approved = needs_digest(spec, policy, view.stage)
    if is_approved or needs_score(spec, view.stage):
        return view.result is None and not spec.prune
    return TRAITS[view.stage].needs_result and not is_verdict(view.result, spec)


def _count_attempts(draft: JobDraft, ledger: Ledger) -> None:
    counted = draft.num_counted
    if ledger.num_started or counted or draft.get("attempts"):
        draft.count_attempts(ledger, counted)


def _set_phase(step: Step) -> None:
    draft, current = step.draft, step.current
    is_kept = step.held_in is not None  # what holds it tells of it
    waiting = {StageState.ABSENT, StageState.SUSPENDED} if is_kept else {StageState.ABSENT}
    is_begun = current is not None and current.state not in waiting
    under_way = step.held_as
    # A stage whose Job somebody has deleted has begun all the same.
    is_missed = not is_kept and not under_way and current is not None
    if current is not None and (is_begun or (is_missed and draft.last_run(current.stage))):
        under_way = TRAITS[current.stage].phase
    phase = phase_of(draft.conditions, under_way, is_queued=step.is_queued)
    draft.put("phase", phase)
    of_stage = TRAITS[current.stage].condition if current else ConditionType.ACCEPTED
    if step.held_in is not None:
        of_stage = step.held_in
    draft.put("reason", reason_of(draft.conditions, phase, of_stage, draft.get("lastFailure")))
    if step.held_as == PHASE or (phase == "Pruned" and not is_begun):
        close_progress(step)  # what comes next may never begin
    elif current is not None:
        draft.restart_progress(current.stage)
    if draft.has_ended:
        # Nothing else wakes a job that has ended.
        left = seconds_to_live(step.observed.job, draft.get("completionTime"), step.now)
        step.requeue_after = None if left is None else max(0.0, left)
