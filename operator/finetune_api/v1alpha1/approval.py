"""The FineTuneApproval kind: one person's decision on the data set or publication of one job.

As an object of its own it needs no right on jobs, can be reviewed in Git, and is in the audit log.
No controller writes to it; the job's status shows the outcome.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from finetune_api.meta import API_VERSION, APIModel
from finetune_api.patterns import LABEL_RULE, PROSE_RULE, SUBDOMAIN_RULE, TextRule, Texts
from finetune_api.rule import Rule, check_rules

DIGEST_RULE = TextRule(
    patterns={"": "[0-9a-f]{64}"},
    message=(
        "must be the whole digest of a data set or an evaluation, 64 hex digits in lower case, as "
        "the job has it in status.dataset.digest or status.evaluation.digest"
    ),
)
"""The version of a data set, or of an evaluation."""

PANEL_RULE = TextRule(
    patterns={"": "[0-9a-f]{64}"},
    message=(
        "must be the whole digest of a panel's result, 64 hex digits in lower case, as finetune "
        "review submit tells it"
    ),
)
"""The result of a human review."""

Subject = Literal["DataSet", "Publication"]
"""What people decide on."""

UserName = Annotated[str, Field(min_length=1, max_length=512)]
"""The name that the API server knows somebody by; opaque, compared character by character."""

IMMUTABLE_MESSAGE = (
    "a decision is not edited: create another FineTuneApproval; one that rejects outweighs all "
    "that approve"
)

APPROVAL_RULES: tuple[Rule, ...] = (
    Rule(
        rule="self.decision != 'Rejected' || (has(self.reason) && self.reason.size() > 0)",
        message="reason is required where decision is Rejected: the job ends with that text",
        field="reason",
        check=lambda s: s.decision != "Rejected" or bool(s.reason),
    ),
    Rule(
        rule="self.subject != 'Publication' || (has(self.reason) && self.reason.size() > 0)",
        message=(
            "reason is required where subject is Publication: the version and its model card carry "
            "it"
        ),
        field="reason",
        check=lambda s: s.subject != "Publication" or bool(s.reason),
    ),
    Rule(
        rule="!has(self.panel) || self.subject == 'Publication'",
        message="panel is the result of a human review, which is of a Publication: leave it out",
        field="panel",
        check=lambda s: s.panel is None or s.subject == "Publication",
    ),
)


class FineTuneApprovalSpec(APIModel):
    """A decision, by whom, and on what exactly. Fixed once the object exists."""

    job: Annotated[str, Field(min_length=1, max_length=52), Texts(LABEL_RULE)]
    """Name of the FineTuneJob, in the same namespace. It may be created later."""
    subject: Subject
    """What is decided on: the data set that `prepare` has made, or whether what `evaluate` has
    looked at is published, also if it missed its goal or a gate."""
    digest: Annotated[str, Field(max_length=64), Texts(DIGEST_RULE)]
    """Digest of the data set, or of the evaluation, that was looked at. A job that has another one
    does not count this decision."""
    panel: Annotated[str, Field(max_length=64), Texts(PANEL_RULE)] | None = None
    """Digest of the panel's result, of a job with `evaluation.review.required`: what `finetune
    review submit` has stored. A `Publication` that names one lets what has passed goal and gates
    be published; one without overrules all that is waited for."""
    decision: Literal["Approved", "Rejected"]
    """`Approved` lets the job train on this data set, or publishes what was evaluated. `Rejected`
    ends a job that waits for it."""
    by: UserName
    """Who decided: the user name that the API server knows the requester by. The chart's admission
    policy refuses any other."""
    reason: Annotated[str, Field(max_length=512), Texts(PROSE_RULE)] | None = None
    """Why, in a sentence; required for `Rejected` and for `Publication`."""

    @model_validator(mode="after")
    def _check_rules(self) -> FineTuneApprovalSpec:
        check_rules(self, APPROVAL_RULES)
        return self


class ApprovalMeta(APIModel):
    """The part of Kubernetes' ObjectMeta that is read here; the rest passes unread."""

    model_config = {**APIModel.model_config, "extra": "ignore"}

    name: Annotated[str, Field(min_length=1, max_length=253), Texts(SUBDOMAIN_RULE)]
    """Name."""
    namespace: Annotated[str, Field(max_length=63)] | None = None
    """Namespace."""


class FineTuneApproval(APIModel):
    """A person's yes or no to the data set of a FineTuneJob, or to publishing what it trained."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["FineTuneApproval"] = "FineTuneApproval"
    metadata: ApprovalMeta
    spec: FineTuneApprovalSpec

    @classmethod
    def from_wire(cls, body: dict[str, Any]) -> FineTuneApproval:
        """Parse a Kubernetes object, wire names only; raises pydantic's ValidationError."""
        return cls.model_validate(body, by_alias=True, by_name=False)
