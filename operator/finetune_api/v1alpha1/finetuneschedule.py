"""The FineTuneSchedule kind: trains again at certain times, or when an endpoint gives cause.

A schedule creates FineTuneJobs, reads their status, and reads the status of one endpoint.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, ValidationInfo, model_validator

from finetune_api.meta import (
    API_VERSION,
    NAME_PATTERN,
    APIModel,
    DecimalString,
    Duration,
    Integer,
    decimal_of,
)
from finetune_api.patterns import CRON_RULE, LABEL_RULE, STORED, ZONE_RULE, Texts
from finetune_api.rule import Rule, check_rules
from finetune_api.v1alpha1.approval import UserName
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.affinity import LabelKey, LabelValue
from finetune_api.v1alpha1.status.schedule import MAX_HISTORY, FineTuneScheduleStatus

MAX_JOBS_KEPT = 50
MAX_SCHEDULE_NAME_LENGTH = 43
"""Longest name: its FineTuneJobs add nine characters, and may have 52."""


class TemplateMeta(APIModel):
    """Metadata of the FineTuneJobs."""

    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = {}
    """Labels. Keys have no prefix, or are `app.kubernetes.io/` with `component`, `part-of` or
    `version`: controllers such as Argo CD act on others."""


class JobTemplate(APIModel):
    """The FineTuneJob that each trigger creates."""

    metadata: TemplateMeta = TemplateMeta()
    """Its labels."""
    spec: FineTuneJobSpec
    """Its spec. Sources `traffic://` without `until` end at the time of the trigger."""


class EndpointReference(APIModel):
    """A FineTuneEndpoint in the same namespace."""

    name: Annotated[str, Field(min_length=1, max_length=52), Texts(LABEL_RULE)]
    """Name of the FineTuneEndpoint."""


class Triggers(APIModel):
    """What makes the schedule train again. Each of them does."""

    cron: Annotated[str, Field(max_length=128), Texts(CRON_RULE)] | None = None
    """Times, as in a CronJob: minute, hour, day of the month, month, day of the week. `0 3 1 */3 *`
    is each quarter. Where clocks go forward, a time that does not exist is made up for at the next
    full hour; where they go back, a time that comes twice counts once."""
    time_zone: Annotated[str, Field(max_length=64), Texts(ZONE_RULE)] | None = None
    """Time zone of `cron` by its IANA name, such as `Europe/Berlin`. Default: UTC."""
    new_rows: Annotated[Integer, Field(ge=1, le=100000000)] | None = None
    """As many answers have been captured since the last trigger."""
    new_feedback: Annotated[Integer, Field(ge=1, le=100000000)] | None = None
    """As many answers have been corrected or rated since the last trigger."""
    drift: StrictBool = False
    """The endpoint's condition `Drifted` has become true. The same drift does so once."""

    @property
    def reads_traffic(self) -> bool:
        """Whether an endpoint can be the cause."""
        return self.new_rows is not None or self.new_feedback is not None or self.drift


class ScheduleBudget(APIModel):
    """What a schedule may use in a period. At a limit triggers wait for the next period."""

    jobs: Annotated[Integer, Field(ge=1, le=1000)] | None = None
    """FineTuneJobs."""
    gpu_hours: DecimalString | None = None
    """GPU hours of all its FineTuneJobs. Each job gets at most the remaining hours."""
    per: Duration = "30d"
    """Length of a period. The first begins with the first trigger, and each further one with the
    first trigger after the end of the one before."""


def _template(schedule: Any) -> FineTuneJobSpec:
    found: FineTuneJobSpec = schedule.job_template.spec
    return found


def _over_published(spec: FineTuneJobSpec) -> bool:
    return any(gate.over_published is not None for gate in spec.evaluation.gates)


_SPEC = "self.jobTemplate.spec"
_PREFIXED_LABELS = tuple(f"app.kubernetes.io/{key}" for key in ("component", "part-of", "version"))

SCHEDULE_RULES: tuple[Rule, ...] = (
    Rule(
        rule=(
            "has(self.triggers.cron) || has(self.triggers.newRows) || "
            "has(self.triggers.newFeedback) || self.triggers.drift"
        ),
        message="triggers needs cron, newRows, newFeedback or drift; without one nothing ever runs",
        field="triggers",
        check=lambda s: s.triggers.cron is not None or s.triggers.reads_traffic,
    ),
    Rule(
        rule="!has(self.triggers.timeZone) || has(self.triggers.cron)",
        message="triggers.timeZone is that of triggers.cron: add cron, or leave timeZone out",
        field="triggers.timeZone",
        check=lambda s: s.triggers.time_zone is None or s.triggers.cron is not None,
    ),
    Rule(
        rule=(
            "has(self.endpointRef) || (!has(self.triggers.newRows) && "
            "!has(self.triggers.newFeedback) && !self.triggers.drift)"
        ),
        message="triggers.newRows, newFeedback and drift are those of an endpoint: add endpointRef",
        field="endpointRef",
        check=lambda s: s.endpoint_ref is not None or not s.triggers.reads_traffic,
    ),
    Rule(
        rule="!has(self.startingDeadlineSeconds) || has(self.triggers.cron)",
        message=(
            "startingDeadlineSeconds is how late a start by triggers.cron may be: add cron, or "
            "leave it out"
        ),
        field="startingDeadlineSeconds",
        check=lambda s: s.starting_deadline_seconds is None or s.triggers.cron is not None,
    ),
    Rule(
        rule="!has(self.budget) || has(self.budget.jobs) || has(self.budget.gpuHours)",
        message="budget needs jobs, gpuHours or both; leave budget out to set none",
        field="budget",
        check=lambda s: (
            s.budget is None or s.budget.jobs is not None or s.budget.gpu_hours is not None
        ),
    ),
    Rule(
        rule=(
            "!has(self.budget) || !has(self.budget.gpuHours) || "
            f"(double(self.budget.gpuHours) > 0.0 && {_SPEC}.resources.gpusPerNode > 0)"
        ),
        message=(
            "budget.gpuHours must be above 0, and jobTemplate.spec.resources.gpusPerNode too: for "
            "jobs on CPUs use budget.jobs"
        ),
        field="budget.gpuHours",
        check=lambda s: (
            s.budget is None
            or s.budget.gpu_hours is None
            or (decimal_of(s.budget.gpu_hours) > 0 and _template(s).resources.gpus_per_node > 0)
        ),
    ),
    Rule(
        rule=(
            "!has(self.jobTemplate.metadata.labels) || self.jobTemplate.metadata.labels.all(k, "
            f"!k.contains('/') || k in {list(_PREFIXED_LABELS)})"
        ),
        message=(
            "jobTemplate.metadata.labels may have keys without a prefix, and "
            f"{', '.join(_PREFIXED_LABELS)}: controllers act on others; write team or cost-center"
        ),
        field="jobTemplate.metadata.labels",
        check=lambda s: all(
            "/" not in key or key in _PREFIXED_LABELS for key in s.job_template.metadata.labels
        ),
        only_new=True,
    ),
    Rule(
        rule=(
            f"!{_SPEC}.suspend && !has({_SPEC}.holdAfter) && "
            f"!(has({_SPEC}.prune) && {_SPEC}.prune) && !has({_SPEC}.requestedBy)"
        ),
        message=(
            "jobTemplate.spec: suspend, holdAfter, prune and requestedBy are not of a template; "
            "leave them out, and set suspend and requestedBy of the schedule"
        ),
        field="jobTemplate.spec",
        check=lambda s: (
            not _template(s).suspend
            and _template(s).hold_after is None
            and not _template(s).prune
            and _template(s).requested_by is None
        ),
    ),
    Rule(
        rule=f"!has({_SPEC}.output.publishAs) && {_SPEC}.output.approval == 'NotRequired'",
        message=(
            "jobTemplate.spec.output: publishAs and approval are set by the schedule, which "
            "publishes for its endpoint and asks as promote says; leave them out"
        ),
        field="jobTemplate.spec.output",
        check=lambda s: (
            _template(s).output.publish_as is None and _template(s).output.approval == "NotRequired"
        ),
    ),
    Rule(
        rule=(
            "!has(self.endpointRef) || self.promote == 'Approval' || "
            f"(has({_SPEC}.evaluation.gates) && "
            f"{_SPEC}.evaluation.gates.exists(g, has(g.overPublished)))"
        ),
        message=(
            "promote: Auto needs a gate that compares with the version that answers: add one with "
            "overPublished to jobTemplate.spec.evaluation.gates, or write promote: Approval"
        ),
        field="jobTemplate.spec.evaluation.gates",
        check=lambda s: (
            s.endpoint_ref is None or s.promote == "Approval" or _over_published(_template(s))
        ),
    ),
)

SCHEDULE_FIXED_FIELDS = ("endpointRef", "requestedBy")
"""Whose traffic is counted, and who asks: fixed, because the status counts from one endpoint."""


def fixed_in_schedule_message(field: str) -> str:
    """Return what the API server says when ``spec.<field>`` of a schedule is changed."""
    return f"{field} is fixed once the schedule exists: create another schedule"


class FineTuneScheduleSpec(APIModel):
    """When to train again, on what, and who decides on the result."""

    job_template: JobTemplate
    """What each trigger trains. May be changed; jobs that exist stay as they are. Each job has
    `evaluation.looks: Correct`, and from the first that was evaluated on `dataset.anchor`: its test
    rows are held out in all further cycles. An anchor in the template counts instead."""
    endpoint_ref: EndpointReference | None = None
    """Endpoint whose traffic is counted, and which serves the result: each job publishes a further
    version of the endpoint's `jobRef`, which then becomes its candidate. Default: none, the jobs
    publish versions under the name of the schedule."""
    triggers: Triggers
    """What makes it train."""
    concurrency_policy: Literal["Forbid"] = "Forbid"
    """`Forbid`: no cycle begins before the one before has ended, with the end of its job, of the
    rollout of its version, or of `cycleDeadlineSeconds`. A time that passes meanwhile is made up
    for, if it is not too late."""
    starting_deadline_seconds: Annotated[Integer, Field(ge=10, le=31536000)] | None = None
    """How much later than `triggers.cron` says a job may begin. A start that is missed by more is
    left out. Default: no limit; the last missed one is made up for."""
    cooldown: Duration | None = None
    """Shortest time between the begins of two cycles. Default: none. After a cycle without a
    version the next one begins 10 minutes after it at the earliest, then 20, 40, up to 12 hours,
    until one brings a version or the spec is edited."""
    budget: ScheduleBudget | None = None
    """What the schedule may use in a period. Default: no limit."""
    suspend: StrictBool = False
    """Begin no more cycles. The present one goes on."""
    history_limit: Annotated[Integer, Field(ge=1, le=MAX_HISTORY)] = 10
    """Ended cycles that the status lists."""
    successful_jobs_history_limit: Annotated[Integer, Field(ge=1, le=MAX_JOBS_KEPT)] = 3
    """Number of FineTuneJobs that are kept after they have published. Older ones are deleted;
    their versions stay in storage."""
    failed_jobs_history_limit: Annotated[Integer, Field(ge=0, le=MAX_JOBS_KEPT)] = 3
    """Number of FineTuneJobs without a version that are kept after their end. Older ones are
    deleted."""
    cycle_deadline_seconds: Annotated[Integer, Field(ge=3600, le=31536000)] | None = None
    """How long a cycle may last. One that lasts longer ends `TimedOut`, and its FineTuneJob is
    deleted if it has not ended. Default: the time between two starts by `triggers.cron`, and at
    least 14 days."""
    promote: Literal["Auto", "Approval"] = "Approval"
    """`Auto`: what passes goal and gates is published, and traffic decides. `Approval`: it is
    published once a FineTuneApproval of the `Publication` says so."""
    requested_by: UserName | None = None
    """Who asks for the schedule and its jobs; as `requestedBy` of a FineTuneJob."""

    @model_validator(mode="after")
    def _check_rules(self, info: ValidationInfo) -> FineTuneScheduleSpec:
        check_rules(self, SCHEDULE_RULES, context=info.context)
        return self


class ScheduleMeta(APIModel):
    """The part of Kubernetes' ObjectMeta that is read here; the rest passes unread."""

    model_config = {**APIModel.model_config, "extra": "ignore"}

    name: Annotated[
        str, Field(min_length=1, max_length=MAX_SCHEDULE_NAME_LENGTH, pattern=NAME_PATTERN)
    ]
    """At most 43 characters: names of its FineTuneJobs are derived from it."""
    namespace: Annotated[str, Field(max_length=63)] | None = None
    """Namespace."""
    uid: str | None = None
    """Set by the API server."""
    generation: int | None = None
    """Set by the API server."""


class FineTuneSchedule(APIModel):
    """FineTuneJobs at certain times, or when traffic gives cause; their versions are candidates."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["FineTuneSchedule"] = "FineTuneSchedule"
    metadata: ScheduleMeta
    spec: FineTuneScheduleSpec
    status: FineTuneScheduleStatus | None = None

    @classmethod
    def from_wire(cls, body: dict[str, Any]) -> FineTuneSchedule:
        """Parse a Kubernetes object, wire names only; raises pydantic's ValidationError."""
        return cls.model_validate(body, by_alias=True, by_name=False)

    @classmethod
    def from_stored(cls, body: dict[str, Any]) -> FineTuneSchedule:
        """Parse an object that the API server holds, as ``FineTuneJob.from_stored`` does."""
        return cls.model_validate(
            body, by_alias=True, by_name=False, extra="ignore", context=STORED
        )
