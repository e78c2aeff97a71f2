"""A job that is not trained, or not published, before a person has approved of it.

The digests are all that is compared: the operator reads no data. A decision is stored in the status
before anything is done for it, so that no Job ever runs without a record of who let it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from finetune_api.protocol.trainer import FailureClass, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.publication import publishing
from finetune_operator.finetunejob.publication.endings import fail
from finetune_operator.finetunejob.state.decisions import (
    DATA_SET,
    MAX_NAMED,
    SECTION,
    Decision,
    decide,
    needs_approval,
    on_subject,
    own_approvals_text,
    split_counted,
)
from finetune_operator.finetunejob.state.failure import Cause
from finetune_operator.finetunejob.state.stages import StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import ConditionType, Reason, timestamp

SHOWN_DIGEST = 12
"""Digits of a digest that tell data sets apart for people."""


def pinned_digest(step: Step, spec: FineTuneJobSpec, stage: Stage) -> str | None:
    """Return the only data set that a stage may read; None where nothing was approved."""
    if stage is Stage.PREPARE or not needs_approval(spec, step.approval_policy):
        return None
    return (step.draft.get(SECTION) or {}).get("digest")


def asks_for_data(step: Step, spec: FineTuneJobSpec, stage: Stage) -> bool:
    """Return whether a stage may begin only once somebody has approved the data set.

    What is published was approved of before: reading it back asks nobody again.
    """
    if not needs_approval(spec, step.approval_policy):
        return False
    run = publishing.taken_over(step.views)
    return stage is Stage.TRAIN or (
        stage is Stage.PUBLISH and run is not None and not run.is_published
    )


def follow_decisions(step: Step, spec: FineTuneJobSpec, stage: Stage) -> None:
    """Tell what was decided on the data set before it is used; a rejection ends the job."""
    if not asks_for_data(step, spec, stage):
        return
    decisions = step.observed.decisions
    digest = (step.draft.get("dataset") or {}).get("digest")
    if decisions is None:
        _wait(step, Reason.APPROVALS_NOT_READ, _UNREAD)
        return
    decisions = on_subject(decisions, DATA_SET)
    if not digest:
        _wait(step, Reason.APPROVAL_REQUIRED, _NO_DIGEST)
        return
    counted, own = split_counted(decisions, spec, step.approval_policy)
    decision = decide(counted, digest)
    if decision is None:
        _request(step, spec, digest, own, others=[d for d in decisions if d.digest != digest])
    elif decision.is_approval:
        _approve(step, decision)
    else:
        _reject(step, decision)


def follow_publication(step: Step, spec: FineTuneJobSpec, view: StageView) -> None:
    """Put the decision on the publication into the status; a no ends the job."""
    if view.stage is not Stage.PUBLISH:
        return
    draft = step.draft
    decision = publishing.who_lets_it(spec, draft.sections(), step.observed.decisions)
    if decision is None:
        draft.drop(publishing.SECTION)
        return
    draft.put(publishing.SECTION, decision.to_wire())
    if decision.is_approval:
        return
    message = (
        f"{decision.by} rejected the publication (FineTuneApproval {decision.name}):"
        f" {decision.reason or 'no reason given'}. The candidate is kept, unpublished."
    )
    draft.conditions.set(ConditionType.PUBLISHED, False, Reason.PUBLICATION_REJECTED, message)
    cause = Cause(
        failure_class=FailureClass.USER_ERROR,
        reason=Reason.PUBLICATION_REJECTED,
        message=message,
        time=timestamp(step.now),
    )
    draft.put("lastFailure", cause.to_wire(view.stage))
    fail(step, Reason.PUBLICATION_REJECTED, message, event=Reason.PUBLICATION_REJECTED)


def _request(
    step: Step,
    spec: FineTuneJobSpec,
    digest: str,
    own: Iterable[Decision],
    *,
    others: list[Decision],
) -> None:
    """Wait for a decision, and name those that do not count."""
    mine = [each for each in own if each.digest == digest]
    message = _request_text(step, digest) + _others_text(others)
    if spec.dataset.approval != "Required":
        message = f"{message}. {_BY_POLICY}"
    if mine:
        _wait(step, Reason.APPROVED_BY_REQUESTER, f"{own_approvals_text(mine)} {message}")
    else:
        _wait(step, Reason.OTHER_DATA_APPROVED if others else Reason.APPROVAL_REQUIRED, message)


def _wait(step: Step, reason: Reason, message: str) -> None:
    draft = step.draft
    if draft.conditions.reason_of(ConditionType.DATA_APPROVED) != reason:
        draft.announce(reason, message, warning=reason is not Reason.APPROVAL_REQUIRED)
    draft.conditions.set(ConditionType.DATA_APPROVED, False, reason, message)
    draft.drop(SECTION)


def _approve(step: Step, decision: Decision) -> None:
    draft = step.draft
    why = f": {decision.reason}" if decision.reason else ""
    message = (
        f"{decision.by} approved data set {decision.digest[:SHOWN_DIGEST]} (FineTuneApproval"
        f" {decision.name}){why}"
    )
    if draft.get(SECTION) != decision.to_wire():
        draft.announce(Reason.APPROVED, message)
    draft.conditions.set(ConditionType.DATA_APPROVED, True, Reason.APPROVED, message)
    draft.put(SECTION, decision.to_wire())


def _reject(step: Step, decision: Decision) -> None:
    draft = step.draft
    message = (
        f"{decision.by} rejected data set {decision.digest[:SHOWN_DIGEST]} (FineTuneApproval"
        f" {decision.name}): {decision.reason or 'no reason given'}. Nothing was trained; correct"
        " the data and create a new job."
    )
    draft.conditions.set(ConditionType.DATA_APPROVED, False, Reason.DATA_REJECTED, message)
    draft.put(SECTION, decision.to_wire())
    cause = Cause(
        failure_class=FailureClass.DATA_ERROR,
        reason=Reason.DATA_REJECTED,
        message=message,
        time=timestamp(step.now),
    )
    draft.put("lastFailure", cause.to_wire(Stage.PREPARE))
    fail(step, Reason.DATA_REJECTED, message, event=Reason.DATA_REJECTED)


_BY_POLICY = "The policy of this namespace asks for it (requireApproval)."
_UNREAD = (
    "The job needs an approval of its data, and this operator cannot read FineTuneApprovals:"
    " their CustomResourceDefinition is not installed, or its role lacks list and watch on"
    " finetuneapprovals. Apply the chart's crds folder and roles (kubectl apply --server-side"
    " --force-conflicts -f charts/finetune-operator/crds/); the job goes on by itself."
)
_NO_DIGEST = (
    "The digest of the data set is not known: an operator that did not know approvals has ended"
    " stage prepare. Nothing can be approved; create the job anew."
)


def _request_text(step: Step, digest: str) -> str:
    dataset: dict[str, Any] = step.draft.get("dataset") or {}
    rows = dataset.get("rows") or {}
    name, namespace = step.observed.name, step.observed.namespace
    return (
        f"Nothing is trained before somebody approves data set {digest}: {rows.get('train', 0)}"
        f" training, {rows.get('validation', 0)} validation and {rows.get('test', 0)} held-out"
        f" rows. To decide: finetune approve {name} -n {namespace} (or --reject), or create a"
        f" FineTuneApproval with that digest. Its page: {dataset.get('uri', '')}/report.html"
    )


def _others_text(others: Iterable[Decision]) -> str:
    """Name decisions that do not count, the newest first."""
    newest = list(others)[::-1]
    if not newest:
        return ""
    told = ", ".join(
        f"{each.by} {'approved' if each.is_approval else 'rejected'} {each.digest[:SHOWN_DIGEST]}"
        for each in newest[:MAX_NAMED]
    )
    more = f" and {len(newest) - MAX_NAMED} more" if len(newest) > MAX_NAMED else ""
    return f". Not counted, for it is other data: {told}{more}"
