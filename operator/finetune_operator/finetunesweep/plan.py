"""``plan(observed, now, config)``: decisions on one FineTuneSweep. Pure and total.

Trials are created one at a time, each after a new plan. The released trial records the choice; the
rest is derived anew. So a stop between any two calls is harmless. A terminal phase never changes.
"""

from __future__ import annotations

from datetime import datetime

from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.lifecycle.deadlines import seconds_to_live
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.finetunesweep.acceptance import accept
from finetune_operator.finetunesweep.actions import CreateTrial, DeleteSelf, Plan
from finetune_operator.finetunesweep.choosing import (
    best_of_search,
    choose,
    find_chosen,
    follow_chosen,
)
from finetune_operator.finetunesweep.pausing import suspend_or_resume
from finetune_operator.finetunesweep.search.space import Value
from finetune_operator.finetunesweep.step import Step
from finetune_operator.finetunesweep.stopping import spent_text, stop_hopeless, tell_start
from finetune_operator.finetunesweep.trial_status import (
    progress_text,
    set_phase,
    set_trials,
)
from finetune_operator.finetunesweep.trials.checking import Fault, find_refused_template
from finetune_operator.finetunesweep.trials.observed import Observed
from finetune_operator.finetunesweep.trials.rendering import (
    render_trial,
    scoring_of,
    with_seed,
)
from finetune_operator.finetunesweep.trials.searching import values_of
from finetune_operator.finetunesweep.trials.trial import Trial
from finetune_operator.status.conditions import ConditionType, Reason, is_terminal

__all__ = ["plan"]

_UNKNOWN_FIELD = "strict decoding error: unknown field"
MAX_FAILURES = 3
"""So many trials may fail before one has a validation loss; then the rest would too."""


def plan(observed: Observed, now: datetime, config: OperatorConfig) -> Plan:
    """Return the decisions on one FineTuneSweep.

    Args:
        observed: The snapshot.
        now: The present, with a time zone.
        config: The administrator's settings.
    """
    if observed.sweep["metadata"].get("deletionTimestamp"):
        # The garbage collector deletes the trials; there is no finalizer.
        return Plan()
    step = Step(observed, now, config)
    if is_terminal(observed.sweep.get("status")):
        return _after_the_end(step)
    if accept(step):
        if step.confirm_missing():
            return step.to_plan()
        _go_on(step)
        if step.first:
            return step.to_plan()
        set_trials(step)
    if step.draft.conditions.status_of(ConditionType.ACCEPTED) != "Unknown":
        set_phase(step)
    if (
        step.draft.has_ended
        and (ttl := observed.sweep["spec"].get("ttlSecondsAfterFinished")) is not None
    ):
        step.requeue_after = float(ttl)
    return step.to_plan()


def _after_the_end(step: Step) -> Plan:
    """End trials that were created unseen, and delete the sweep in the end."""
    step.prune_under_way()
    step.prune_returned()
    if step.first:
        return step.to_plan()
    ended = (step.observed.sweep.get("status") or {}).get("completionTime")
    left = seconds_to_live(step.observed.sweep, ended, step.now)
    if left is not None and left <= 0:
        return Plan(then=(DeleteSelf(),))
    return Plan(requeue_after=left)


def _go_on(step: Step) -> None:
    tell_start(step)
    step.prune_returned()
    suspend_or_resume(step)
    chosen = find_chosen(step)
    if chosen is not None:
        follow_chosen(step, chosen)
    elif step.draft.was_chosen:
        gone = f"{step.draft.was_chosen} was chosen, and then deleted: nothing is published."
        step.fail(Reason.TRIAL_DELETED, gone)
    elif not step.observed.spec.suspend:
        _search(step)
    else:
        stop_hopeless(step)  # trials that reached a rung meanwhile are judged there, or never
        _set_progressing(step, Reason.SUSPENDED_BY_USER)


def _search(step: Step) -> None:
    """Stop poor trials, begin due ones; once all were tried, choose."""
    if spent := spent_text(step):
        step.prune_under_way()
        if not step.first:
            choose(step)
        _set_progressing(step, Reason.BUDGET_REACHED, f"{spent}, so that the search ends.")
        return
    stop_hopeless(step)
    if step.first or _is_hopeless(step):
        return
    is_begun = _is_doubtful(step) or _begin_next(step)
    if step.fault is not None:
        _end_refused(step, step.fault)
        return
    if not is_begun and step.is_settled:
        choose(step)
    if is_begun and not step.first and step.observed.refusal is not None:
        _set_trial_refused(step, step.observed.refusal)
        return
    _set_progressing(
        step, Reason.SEARCHING if step.under_way == "Searching" else Reason.REPLICATING
    )


def _end_refused(step: Step, fault: Fault) -> None:
    """End a search whose next trial is refused, by settings or by a newer operator.

    The sweep waits for trials that train and chooses the best trained one. It does not wait for
    trials whose rung can no longer be completed.
    """
    text = f"{fault.message}. So no more trials are begun."
    if not any(trial.trains and _goes_on(step, trial) for trial in step.trials):
        step.prune_under_way()
        if not step.first and best_of_search(step) is None:
            step.fail(fault.reason, text)
        elif not step.first:
            choose(step)
    _set_progressing(step, fault.reason, text)


def _goes_on(step: Step, trial: Trial) -> bool:
    return not (trial.is_pruned or trial.number in step.waiting)


def _set_progressing(step: Step, reason: Reason, before: str = "") -> None:
    if step.draft.has_ended:
        return
    text = f"{before} {progress_text(step)}".strip()
    step.draft.conditions.set(ConditionType.PROGRESSING, True, reason, text)


def _begin_next(step: Step) -> bool:
    """Create the next trial where there is one and room for it; return whether there is one."""
    spec = step.observed.spec
    template = step.observed.sweep["spec"]["template"]
    number = step.next_number
    replicates = [trial for trial in step.trials if trial.replicate_of is not None]
    values: dict[str, Value] | None = None
    base: Trial | None = None
    if not step.is_all_created:
        values = values_of(spec, step.observed.uid, number)
    num_replicates = len(replicates) + len(step.deleted.replicates)
    if values is None and num_replicates < spec.replicates:
        searching = any(trial.is_under_way and not trial.is_pruned for trial in step.searched)
        base = None if searching else _replicated(step, replicates)
        if base is not None:
            step.under_way = "Replicating"
            values = with_seed(template, base.values, number)
    if values is None:
        step.under_way = "Replicating" if num_replicates else "Searching"
        return False
    if step.num_free_places > 0 and step.observed.refusal is None:
        step.fault = find_refused_template(step.observed, step.config)
        if step.fault is not None:
            return True
        of = None if base is None else base.number
        job = render_trial(
            step.observed.owner,
            template,
            number,
            values,
            scoring=scoring_of(spec),
            replicate_of=of,
            requested_by=spec.requested_by,
        )
        step.first.append(CreateTrial(number=number, job=job))
    return True


def _replicated(step: Step, replicates: list[Trial]) -> Trial | None:
    """Return the trial to replicate: that of the present replicates, else the best."""
    if replicates:
        wanted = replicates[0].replicate_of
        return next((trial for trial in step.searched if trial.number == wanted), None)
    return best_of_search(step)


def _is_doubtful(step: Step) -> bool:
    """Return whether so many trials failed, with no success, that no more are begun."""
    num_failed = sum(trial.state == "Failed" for trial in step.trials)
    has_failed = num_failed >= MAX_FAILURES and not any(t.lowest_loss for t in step.trials)
    return has_failed or _is_never_scored(step)


def _is_never_scored(step: Step) -> bool:
    """Return whether so many trained trials, and all of them, have no score."""
    num_unscored = sum(trial.why_unscored is not None for trial in step.trials)
    return num_unscored >= MAX_FAILURES and all(trial.badness is None for trial in step.trials)


def _is_hopeless(step: Step) -> bool:
    """End a sweep whose first trials all failed, because later ones would fail too.

    The sweep waits for a trial that trains meanwhile. It does not wait for a trial that is being
    stopped, or whose rung can no longer be completed.
    """
    if not _is_doubtful(step) or any(_trains_on(step, trial) for trial in step.trials):
        return False
    failed = [trial for trial in step.trials if trial.state == "Failed"]
    unscored = [trial for trial in step.trials if trial.why_unscored is not None]
    if _is_never_scored(step):
        message = (
            f"The first {len(unscored)} trials were trained, and none could be scored; no more are"
            f" begun. {unscored[0].unscored_text}"
        )
    else:
        message = (
            f"The first {len(failed)} trials failed, and none has come to a validation loss; no"
            f" more are begun. {failed[0].name} failed with {failed[0].reason}: {failed[0].message}"
        )
    step.fail(Reason.NO_TRIAL_TRAINED, message)
    return True


def _trains_on(step: Step, trial: Trial) -> bool:
    waits_for_ever = trial.number in step.waiting and not step.is_all_created
    return trial.trains and not trial.is_pruned and not waits_for_ever


def _set_trial_refused(step: Step, refusal: Refusal) -> None:
    """Report why the next trial cannot be created; existing trials continue."""
    if refusal.is_final:
        text = f"The API server refuses a trial: {refusal.message}"
        if _UNKNOWN_FIELD in refusal.message:
            text += (
                ". Its CustomResourceDefinition of FineTuneJobs is older than that of"
                " FineTuneSweeps: apply both of the chart (kubectl apply --server-side"
                " --force-conflicts -f charts/finetune-operator/crds/) and create the sweep again"
            )
        step.fail(Reason.INVALID_TRIAL, text)
        return
    conditions = step.draft.conditions
    if conditions.reason_of(ConditionType.PROGRESSING) != refusal.reason:
        step.draft.announce(refusal.reason, refusal.message, warning=True)
    conditions.set(ConditionType.PROGRESSING, False, refusal.reason, refusal.message)
    step.look_again(refusal.retry_seconds)
