"""What is known of one FineTuneSchedule at one moment: facts, without a judgement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from finetune_api.meta import GROUP, SCHEDULE_KIND
from finetune_api.names import Owner, asked_trigger
from finetune_api.v1alpha1.finetuneschedule import FineTuneSchedule, FineTuneScheduleSpec
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.status.conditions import parse_timestamp
from finetune_operator.tenants import TenantSettings

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Snapshot of a FineTuneSchedule and of what it depends on.

    Attributes:
        schedule: The object as stored.
        parsed: The validated object; None if ``problem`` is set.
        problem: Cause for which the spec cannot be read.
        endpoint: The FineTuneEndpoint that ``spec.endpointRef`` names; None if there is none.
        job: The FineTuneJob of the cycle under way; None if it is not there.
        is_job_gone: Whether a live read has confirmed that it is not there.
        gpu_hours: GPU hours of that job, as far as they were ever seen.
        refusal: Cause for which the API server does not take the job.
        jobs: All FineTuneJobs of this schedule.
        num_jobs: FineTuneJobs of all schedules of the namespace.
        num_older: Older schedules of the namespace that are not suspended.
        settings: What the administrator allows in the namespace; None on one machine.
    """

    schedule: Object
    parsed: FineTuneSchedule | None
    problem: str = ""
    endpoint: Object | None = None
    job: Object | None = None
    is_job_gone: bool = False
    gpu_hours: Decimal = Decimal(0)
    refusal: Refusal | None = None
    jobs: tuple[Object, ...] = ()
    num_jobs: int = 0
    num_older: int = 0
    settings: TenantSettings | None = None

    @property
    def name(self) -> str:
        """Name of the schedule."""
        return str(self.schedule["metadata"]["name"])

    @property
    def uid(self) -> str:
        """Its UID."""
        return str(self.schedule["metadata"]["uid"])

    @property
    def generation(self) -> int:
        """Generation of the spec."""
        return int(self.schedule["metadata"].get("generation") or 0)

    @property
    def asked(self) -> str:
        """What a person has asked for by annotation; empty if nothing."""
        return asked_trigger(self.schedule)

    @property
    def created_at(self) -> datetime | None:
        """When it was created."""
        return parse_timestamp(self.schedule["metadata"].get("creationTimestamp"))

    @property
    def spec(self) -> FineTuneScheduleSpec:
        """The spec of a schedule that can be read."""
        assert self.parsed is not None
        return self.parsed.spec

    @property
    def owner(self) -> Owner:
        """The schedule as the owner of its jobs."""
        namespace = self.schedule["metadata"]["namespace"]
        return Owner(namespace=namespace, name=self.name, uid=self.uid, kind=SCHEDULE_KIND)


def schedule_owner(job: Object) -> Object:
    """Return the owner reference of a FineTuneJob to its schedule; empty if none controls it."""
    for owner in job["metadata"].get("ownerReferences") or ():
        group = str(owner.get("apiVersion") or "").partition("/")[0]
        if owner.get("controller") and owner.get("kind") == SCHEDULE_KIND and group == GROUP:
            return dict(owner)
    return {}


def schedule_of(job: Object) -> tuple[str, str] | None:
    """Return the key of the schedule of a FineTuneJob; None if it has none."""
    name = schedule_owner(job).get("name")
    return (job["metadata"]["namespace"], str(name)) if name else None
