"""What people have decided on a job: FineTuneApprovals, trimmed and read.

Only what is wholly understood counts: an object of a newer version, of another subject, or one that
is being deleted is no decision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune_api.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec

Object = dict[str, Any]

PHASE = "AwaitingApproval"
"""Phase of a job whose data set nobody has approved."""
SECTION = "dataApproval"
"""Where the status keeps the decision that the job goes by."""
DATA_SET, PUBLICATION = "DataSet", "Publication"
_SUBJECTS = (DATA_SET, PUBLICATION)
_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
)
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
        }
        if self.panel:
            wire["panel"] = self.panel
        if self.reason:
            wire["reason"] = self.reason
        if self.time:
            wire["time"] = self.time
        return wire


def needs_approval(spec: FineTuneJobSpec) -> bool:
    """Return whether somebody has to approve the data set."""
    return spec.dataset.approval == "Required"


def needs_digest(spec: FineTuneJobSpec, stage: Stage) -> bool:
    """Return whether a stage makes what has to be approved: its digest must not be lost."""
    return stage is Stage.PREPARE and needs_approval(spec)


def trim_approval(obj: Object) -> Object:
    """Keep of a FineTuneApproval what decisions read."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    return {
        "metadata": {key: metadata[key] for key in _METADATA if metadata.get(key)},
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
