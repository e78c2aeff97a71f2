"""What a candidate's publication waits for, and who lets it happen. Pure.

:func:`~finetune_api.protocol.publication.publication_of` decides when a candidate that passed is
published. ``AT_ONCE``, the default: the evaluation's pod publishes at its end, and stage
``publish`` has no Job. Otherwise the evaluation's pod leaves the candidate unpublished, and Job
``publish`` is created once nothing here waits. Job ``publish`` also reads the evaluation from
storage where its result was lost. The version in the result records what was published.

To add a condition for publication:

1. Add a member to ``Publication`` and its case to ``publication_of``. The evaluation's pod learns
   it from ``job.json``.
2. Add a function to ``_ASKED``. It returns a :class:`Wait` until the condition is met.
3. Add a function to ``_LETS``. It returns the :class:`Decision` that met the condition. This
   decision goes into ``status.publication``, the version and the model card.

A human review, for example, waits until a FineTuneApproval names the panel's result. The digest of
the evaluation is ``status.evaluation.digest``. A FineTuneApproval of subject ``Publication`` that
names this digest overrides all waits; one that rejects it ends the job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.protocol.publication import Publication, needs_approval, publication_of
from finetune_api.protocol.stage_results import PrepareResult, TakenOver
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.state.decisions import (
    MAX_NAMED,
    POLICY,
    PUBLICATION,
    ApprovalPolicy,
    Decision,
    decide,
    on_subject,
    own_approvals_text,
    split_counted,
)
from finetune_operator.finetunejob.state.results import is_verdict
from finetune_operator.finetunejob.state.stages import StageView
from finetune_operator.status.conditions import Reason

Status = Mapping[str, Any]
Decisions = tuple[Decision, ...] | None
"""All decisions of people on the job, the earliest first. None if FineTuneApprovals cannot be read;
this approves nothing."""

SECTION = "publication"
"""Section of the status with the decision that the publication follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """One reason why a candidate is not published yet.

    Attributes:
        reason: CamelCase reason of the condition ``Published``; stable.
        message: What the job waits for and how to go on.
        is_final: Whether waiting cannot help, because somebody rejected the candidate.
    """

    reason: str
    message: str
    is_final: bool = False


def why_publishing_waits(
    spec: FineTuneJobSpec, status: Status, decisions: Decisions
) -> tuple[Wait, ...]:
    """Return what a candidate's publication waits for; empty if it may be published.

    Args:
        spec: The job's spec.
        status: Its status as planned, ``evaluation`` included.
        decisions: What people have decided on the job; None if that cannot be read.
    """
    waits = (ask(spec, status, decisions) for ask in _ASKED)
    return tuple(wait for wait in waits if wait is not None)


def who_lets_it(spec: FineTuneJobSpec, status: Status, decisions: Decisions) -> Decision | None:
    """Return the decision that the publication follows; None without one."""
    made = (let(spec, status, decisions) for let in _LETS)
    return next((decision for decision in made if decision is not None), None)


def decided_on_publication(
    spec: FineTuneJobSpec, status: Status, decisions: Decisions
) -> Decision | None:
    """Return a person's decision on exactly this evaluation, passed or missed.

    A panel's result is left out: it only lets a candidate that passed be published.
    """
    digest = (status.get("evaluation") or {}).get("digest")
    counted, _ = _split(spec, status, decisions)
    overruling = [each for each in counted if not (each.is_approval and each.panel)]
    return decide(overruling, digest) if digest else None


def reviewed(spec: FineTuneJobSpec, status: Status, decisions: Decisions) -> Decision | None:
    """Return the first approval that names a panel's result on exactly this evaluation.

    Where reviewers are users, as many users as there are reviewers must name the same result.
    """
    required = ApprovalPolicy.of_status(status.get(POLICY)).required
    if publication_of(spec, required) is not Publication.AFTER_REVIEW:
        return None
    for_panel = _panel_approvals(spec, status, decisions)
    whole = (each for each in for_panel.values() if len(each) >= _num_users(spec, status))
    return min((each[0] for each in whole), key=lambda each: each.time, default=None)


def _panel_approvals(
    spec: FineTuneJobSpec, status: Status, decisions: Decisions
) -> dict[str, list[Decision]]:
    """Return the approvals of each panel's result, the first of each user."""
    digest = (status.get("evaluation") or {}).get("digest")
    counted, _ = _split(spec, status, decisions)
    found: dict[str, dict[str, Decision]] = {}
    for each in counted:
        if each.is_approval and each.panel and each.digest == digest:
            found.setdefault(each.panel, {}).setdefault(each.by, each)
    return {panel: list(by_user.values()) for panel, by_user in found.items()}


def _num_users(spec: FineTuneJobSpec, status: Status) -> int:
    """Return how many users must name a panel's result."""
    review = spec.evaluation.review
    policy = ApprovalPolicy.of_status(status.get(POLICY))
    return review.reviewers if review is not None and policy.reviewers_are_users else 1


def own_approvals(
    spec: FineTuneJobSpec, status: Status, decisions: Decisions
) -> tuple[Decision, ...]:
    """Return the requester's approvals of exactly this evaluation that do not count."""
    digest = (status.get("evaluation") or {}).get("digest")
    _, own = _split(spec, status, decisions)
    return tuple(each for each in own if each.digest == digest)


def _split(
    spec: FineTuneJobSpec, status: Status, decisions: Decisions
) -> tuple[tuple[Decision, ...], tuple[Decision, ...]]:
    policy = ApprovalPolicy.of_status(status.get(POLICY))
    return split_counted(on_subject(decisions or (), PUBLICATION), spec, policy)


def _self_approval(spec: FineTuneJobSpec, status: Status, decisions: Decisions) -> Wait | None:
    """Wait if the requester's own approval is the only one: it does not count."""
    own = own_approvals(spec, status, decisions)
    if not own or not any(ask(spec, status, decisions) for ask in (_review, _approval)):
        return None
    return Wait(reason=Reason.APPROVED_BY_REQUESTER, message=own_approvals_text(own))


def _approval(spec: FineTuneJobSpec, status: Status, decisions: Decisions) -> Wait | None:
    policy = ApprovalPolicy.of_status(status.get(POLICY))
    if not needs_approval(spec, policy.required) or reviewed(spec, status, decisions):
        return None
    who = "the policy of this namespace requires it (requireApproval)"
    if spec.output.approval == "Required":
        who = "output.approval is Required"
    if decisions is None:
        return Wait(reason=Reason.APPROVALS_NOT_READ, message=_UNREAD)
    evaluation = status.get("evaluation") or {}
    return Wait(
        reason=Reason.PUBLICATION_APPROVAL_REQUIRED,
        message=(
            "The candidate passed. It is published once somebody approves evaluation"
            f" {evaluation.get('digest', '')}, because {who}. To decide: finetune publish NAME"
            " --reason WHY (or --reject), or create a FineTuneApproval of subject Publication with"
            " that digest. Its page:"
            f" {evaluation.get('reportUri', '')}"
        ),
    )


def _review(spec: FineTuneJobSpec, status: Status, decisions: Decisions) -> Wait | None:
    review = spec.evaluation.review
    if review is None or not review.required or reviewed(spec, status, decisions):
        return None
    if decisions is None:
        return Wait(reason=Reason.APPROVALS_NOT_READ, message=_UNREAD)
    page = str((status.get("evaluation") or {}).get("reportUri", "")).rpartition("/")[0]
    for_panel = _panel_approvals(spec, status, decisions)
    if for_panel:
        panel, users = max(for_panel.items(), key=lambda each: len(each[1]))
        named = ", ".join(repr(each.by) for each in users[:MAX_NAMED])
        return Wait(
            reason=Reason.REVIEW_REQUIRED,
            message=(
                f"{len(users)} of {review.reviewers} reviewers have approved the panel's result"
                f" {panel} as users ({named}). The policy of this namespace requires an approval of"
                " each (reviewersAreUsers): each runs finetune review submit with the same files."
            ),
        )
    return Wait(
        reason=Reason.REVIEW_REQUIRED,
        message=(
            f"The candidate passed. It is published once {review.reviewers} reviewer(s) have"
            f" compared its answers with the base model's. Their page: {page}/review/page.html. To"
            " submit their files: finetune review submit."
        ),
    )


_UNREAD = (
    "The job waits for a person's decision, and this operator cannot read FineTuneApprovals: their"
    " CustomResourceDefinition is not installed, or its role lacks list and watch on"
    " finetuneapprovals. The job continues by itself once the operator can."
)
_ASKED: tuple[Callable[[FineTuneJobSpec, Status, Decisions], Wait | None], ...] = (
    _self_approval,
    _review,
    _approval,
)
_LETS: tuple[Callable[[FineTuneJobSpec, Status, Decisions], Decision | None], ...] = (
    decided_on_publication,
    reviewed,
)


def has_work(stage: Stage, spec: FineTuneJobSpec, views: Sequence[StageView]) -> bool:
    """Return whether a stage has anything to do in a job in which it has not begun.

    Job ``publish`` has nothing to do once a verdict is known: the evaluation has published, or
    the candidate missed its goal or a gate. Of a run that was taken over it reads the evaluation:
    nothing is trained or evaluated.
    """
    if stage is Stage.PUBLISH:
        return not any(is_verdict(view.result, spec) for view in views)
    return stage is Stage.PREPARE or taken_over(views) is None


def taken_over(views: Sequence[StageView]) -> TakenOver | None:
    """Return the complete run that stands for the job; None where it trains."""
    prepared = views[0].result
    return prepared.taken_over if isinstance(prepared, PrepareResult) else None


def is_approved(publication: Status | None) -> bool:
    """Return whether ``status.publication`` records that somebody approved the publication."""
    return (publication or {}).get("decision") == "Approved"


def overrules(publication: Status | None) -> bool:
    """Return whether this approval overrides all waits. A panel's result does not."""
    return is_approved(publication) and not (publication or {}).get("panel")


def decision_arguments(
    stage: Stage, publication: Status | None, evaluation: Status | None
) -> tuple[str, ...]:
    """Return the arguments that tell the publishing pod which decision it goes by.

    Args:
        stage: The stage whose pod is rendered.
        publication: ``status.publication``.
        evaluation: ``status.evaluation``.
    """
    if stage is not Stage.PUBLISH or publication is None or not is_approved(publication):
        return ()
    made, digest = publication, (evaluation or {})["digest"]
    told = {
        "--evaluation-digest": digest,
        "--decided-by": made["by"],
        "--reason": made.get("reason") or "no reason given",
        "--approval": made["name"],
        **({"--panel": made["panel"]} if made.get("panel") else {}),
    }
    # One argument each, because a reason may begin with a dash. The kubelet replaces $(NAME) by the
    # container's variables, which include credentials. A doubled $ is a plain $.
    return tuple(f"{option}={text}".replace("$", "$$") for option, text in told.items())
