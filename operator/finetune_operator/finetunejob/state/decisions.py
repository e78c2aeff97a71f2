"""What people have decided on a job: FineTuneApprovals, trimmed and read.

Only what is wholly understood counts: an object of a newer version, of another subject, or one that
is being deleted is no decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.approval import Subject
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.state.trimming import KEPT_METADATA
from finetune_operator.tenants import TenantSettings

Object = dict[str, Any]

PHASE = "AwaitingApproval"
"""Phase of a job whose data set nobody has approved."""
SECTION = "dataApproval"
"""Where the status keeps the decision that the job goes by."""
POLICY = "approvalPolicy"
"""Where the status keeps what the policy asked when the job was accepted."""
DATA_SET: Final = "DataSet"
PUBLICATION: Final = "Publication"
OWN_APPROVALS = "Not counted: FineTuneApproval"
"""How a message begins that names approvals of the requester."""
MAX_NAMED = 3
"""Decisions that do not count and are named."""
_SUBJECTS: tuple[Subject, ...] = (DATA_SET, PUBLICATION)
_SPEC = ("job", "subject", "digest", "panel", "decision", "by", "reason")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One person's decision.

    Attributes:
        name: Name of the FineTuneApproval.
        subject: What it is on: ``DataSet`` or ``Publication``.
        digest: Version of the data set, or of the evaluation, that was looked at.
        panel: Digest of the panel's result that it names; empty for none.
        is_approval: Whether it lets the job train, or the candidate be published; else it is a no.
        by: Who decided.
        reason: Why; may be empty.
        time: When, as an API timestamp.
    """

    name: str
    digest: str
    is_approval: bool
    by: str
    reason: str = ""
    time: str = ""
    subject: str = DATA_SET
    panel: str = ""

    def to_wire(self) -> Object:
        """Return ``status.dataApproval``, or ``status.publication``."""
        wire: Object = {
            "name": self.name,
            "decision": "Approved" if self.is_approval else "Rejected",
            "digest": self.digest,
            "by": self.by,
            "panel": self.panel,
            "reason": self.reason,
            "time": self.time,
        }
        return {name: value for name, value in wire.items() if value}


@dataclass(frozen=True, kw_only=True, slots=True)
class ApprovalPolicy:
    """What the administrator asks about approvals of one job, fixed when it was accepted.

    Attributes:
        required: Subjects that a person has to approve, whatever the spec says.
        requester_may_approve: Whether an approval by ``spec.requestedBy`` counts.
        reviewers_are_users: Whether as many users as there are reviewers must name a panel's
            result.
    """

    required: tuple[Subject, ...] = ()
    requester_may_approve: bool = True
    reviewers_are_users: bool = False

    @classmethod
    def of_settings(cls, settings: TenantSettings) -> ApprovalPolicy:
        """Return what the settings of a namespace ask of a job that is accepted now."""
        return cls(
            required=tuple(each for each in _SUBJECTS if each in settings.require_approval),
            requester_may_approve=settings.requester_may_approve,
            reviewers_are_users=settings.reviewers_are_users,
        )

    @classmethod
    def of_status(cls, section: Mapping[str, Any] | None) -> ApprovalPolicy:
        """Return what ``status.approvalPolicy`` records; a job without it is asked nothing."""
        told = section or {}
        return cls(
            required=tuple(each for each in _SUBJECTS if each in (told.get("required") or ())),
            requester_may_approve=told.get("requesterMayApprove", True),
            reviewers_are_users=told.get("reviewersAreUsers", False),
        )

    def to_wire(self) -> Object:
        """Return ``status.approvalPolicy``; empty if nothing is asked."""
        if self == ApprovalPolicy():
            return {}
        wire: Object = {
            "required": list(self.required),
            "requesterMayApprove": self.requester_may_approve,
        }
        return wire | ({"reviewersAreUsers": True} if self.reviewers_are_users else {})

    def counts(self, decision: Decision, requester: str | None) -> bool:
        """Return whether a decision counts. Names are opaque: equal in every character, or not.

        A rejection always counts. Where the requester may not approve and is not known, no approval
        does.
        """
        if not decision.is_approval or self.requester_may_approve:
            return True
        return requester is not None and decision.by != requester


def needs_approval(spec: FineTuneJobSpec, policy: ApprovalPolicy) -> bool:
    """Return whether somebody has to approve the data set."""
    return spec.dataset.approval == "Required" or DATA_SET in policy.required


def needs_digest(spec: FineTuneJobSpec, policy: ApprovalPolicy, stage: Stage) -> bool:
    """Return whether a stage makes what has to be approved: its digest must not be lost."""
    return stage is Stage.PREPARE and needs_approval(spec, policy)


def split_counted(
    decisions: Iterable[Decision], spec: FineTuneJobSpec, policy: ApprovalPolicy
) -> tuple[tuple[Decision, ...], tuple[Decision, ...]]:
    """Return the decisions that count, and the requester's own approvals, which do not."""
    counted: list[Decision] = []
    own: list[Decision] = []
    for each in decisions:
        (counted if policy.counts(each, spec.requested_by) else own).append(each)
    return tuple(counted), tuple(own)


def own_approvals_text(own: Iterable[Decision]) -> str:
    """Say that approvals by the requester do not count, the newest first; empty without any."""
    newest = list(own)[::-1]
    if not newest:
        return ""
    names = ", ".join(each.name for each in newest[:MAX_NAMED])
    more = f" and {len(newest) - MAX_NAMED} more" if len(newest) > MAX_NAMED else ""
    return (
        f"{OWN_APPROVALS} {names}{more} by {newest[0].by!r}, who requested the job"
        " (requesterMayApprove is off in this namespace). Somebody else has to decide."
    )


def trim_approval(obj: Object) -> Object:
    """Keep of a FineTuneApproval what decisions read."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    return {
        "metadata": {key: metadata[key] for key in KEPT_METADATA if metadata.get(key)},
        "spec": {key: spec[key] for key in _SPEC if spec.get(key)},
    }


def read_decisions(objects: Iterable[Object]) -> tuple[Decision, ...]:
    """Return the decisions in trimmed FineTuneApprovals, the earliest first."""
    found = [decision for obj in objects if (decision := _read(obj)) is not None]
    return tuple(sorted(found, key=lambda each: (each.time, each.name)))


def on_subject(decisions: Iterable[Decision], subject: str) -> tuple[Decision, ...]:
    """Return the decisions on one subject, in their order."""
    return tuple(decision for decision in decisions if decision.subject == subject)


def decide(decisions: Iterable[Decision], digest: str) -> Decision | None:
    """Return the decision on a digest: the first that rejects it, else the first that approves.

    A rejection wins, whoever came first: someone has seen what the others have not.
    """
    own = [decision for decision in decisions if decision.digest == digest]
    rejections = (decision for decision in own if not decision.is_approval)
    return next(rejections, own[0] if own else None)


def _read(obj: Object) -> Decision | None:
    metadata, spec = obj["metadata"], obj["spec"]
    is_known = spec.get("subject") in _SUBJECTS and spec.get("decision") in ("Approved", "Rejected")
    if metadata.get("deletionTimestamp") or not is_known or not spec.get("digest"):
        return None
    return Decision(
        name=metadata["name"],
        subject=spec["subject"],
        digest=str(spec["digest"]),
        panel=str(spec.get("panel") or ""),
        is_approval=spec["decision"] == "Approved",
        by=str(spec.get("by") or "somebody"),
        reason=str(spec.get("reason") or ""),
        time=str(metadata.get("creationTimestamp") or ""),
    )
