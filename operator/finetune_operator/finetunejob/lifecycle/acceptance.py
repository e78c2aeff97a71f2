"""Whether a job may run: asked before anything is created, and of its pods at every stage."""

from __future__ import annotations

from finetune_api.protocol.trainer import FailureClass, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.holds.pruning import run_uri
from finetune_operator.finetunejob.lifecycle.traffic import settle_traffic
from finetune_operator.finetunejob.pods.admission import find_violations
from finetune_operator.finetunejob.pods.podbounds import find_fixed_violations
from finetune_operator.finetunejob.publication.endings import fail
from finetune_operator.finetunejob.state.decisions import POLICY, ApprovalPolicy
from finetune_operator.finetunejob.state.failure import Cause
from finetune_operator.finetunejob.state.stages import StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import ConditionType, Reason, timestamp

_ACCEPTED = "The spec is valid and allowed on this cluster."


def accept(step: Step) -> FineTuneJobSpec | None:
    """Return the spec to go by; None if there is none, which the draft then tells."""
    observed, draft = step.observed, step.draft
    was_accepted = draft.conditions.status_of(ConditionType.ACCEPTED) in ("True", "Unknown")
    if observed.parsed is None:
        if was_accepted:
            _set_unreadable(step, observed.problem)
        else:
            _refuse(step, Reason.INVALID_SPEC, observed.problem)
        return None
    spec = observed.parsed.spec
    # Settings that changed since do not reach back to jobs that were accepted.
    violations = [] if was_accepted else find_violations(spec, step.config)
    if not (was_accepted or violations):
        settled = settle_traffic(step, spec)
        if settled is None:
            return None
        violations = settled
    if violations:
        _refuse(step, violations[0].reason, "; ".join(str(item) for item in violations))
        return None
    if not was_accepted and not _is_recorded(step):
        return None
    draft.conditions.set(ConditionType.ACCEPTED, True, Reason.VALID, _ACCEPTED)
    if not was_accepted:
        created = [view.job["metadata"]["name"] for view in step.views if view.job]
        text = f"Accepted; created Job {', '.join(created)}" if created else "Accepted"
        if spec.evaluation.judge is not None:
            text += (
                "; the evaluation will send prompts and answers of held-out rows to the judge at"
                f" {spec.evaluation.judge.endpoint}"
            )
        draft.announce("Accepted", text)
    return spec


def _is_recorded(step: Step) -> bool:
    """Return whether the status holds what the policy asks about approvals; else store it first.

    It is fixed for the life of the job, and job.json is rendered from it: a restart with another
    configuration between the two must not let a job pass as one that was accepted before.
    """
    asked = ApprovalPolicy.of_settings(step.config)
    recorded = (step.observed.job.get("status") or {}).get(POLICY)
    # As values: a list that is empty is not stored.
    if asked == ApprovalPolicy.of_status(recorded):
        return True
    if wire := asked.to_wire():
        step.draft.put(POLICY, wire)
    else:
        step.draft.drop(POLICY)
    step.look_again(0.0)
    return False


def find_breach(step: Step, spec: FineTuneJobSpec, view: StageView) -> Cause | None:
    """Return why a stage may have no pods, whatever the settings; None if it may.

    An operator before this one may have accepted the job. What it has stored stays where it is. A
    stage whose pods have succeeded is recorded first.
    """
    if spec.pod_template is None or view.has_ended or view.is_ending:
        return None
    violations = list(find_fixed_violations(spec.pod_template))
    if not violations:
        return None
    dataset = (step.draft.get("dataset") or {}).get("uri")
    kept = f" The prepared data set is kept at {dataset}." if dataset else ""
    if any(each.job is not None and each.stage is Stage.TRAIN for each in step.views):
        kept += f" Checkpoints are kept below {run_uri(step.observed)}."
    message = (
        f"{'; '.join(str(each) for each in violations)}. The job was accepted before this was"
        f" refused.{kept} Correct podTemplate in the new job."
    )
    return Cause(
        failure_class=FailureClass.USER_ERROR,
        reason=violations[0].reason,
        message=message,
        time=timestamp(step.now),
    )


def _set_unreadable(step: Step, problem: str) -> None:
    """Leave a job alone that another version of the operator has accepted: it may be running.

    Its phase stays as it was; a version that reads it goes on.
    """
    message = (
        f"This version of the operator cannot read the spec, which was accepted before:"
        f" {problem}. Nothing is stopped, and nothing new is started, until CRD and operator"
        " are of one version."
    )
    conditions = step.draft.conditions
    if conditions.reason_of(ConditionType.ACCEPTED) != Reason.INVALID_SPEC:
        step.draft.announce(Reason.INVALID_SPEC, message, warning=True)
    conditions.set(ConditionType.ACCEPTED, "Unknown", Reason.INVALID_SPEC, message)
    step.draft.put("reason", Reason.INVALID_SPEC.value)


def _refuse(step: Step, reason: Reason, message: str) -> None:
    step.draft.conditions.set(ConditionType.ACCEPTED, False, reason, message)
    cause = Cause(
        failure_class=FailureClass.USER_ERROR,
        reason=reason,
        message=message,
        time=timestamp(step.now),
    )
    fail(step, reason, message)
    wire = cause.to_wire(Stage.PREPARE)
    del wire["stage"]
    step.draft.put("lastFailure", wire)
