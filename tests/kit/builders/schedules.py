"""A FineTuneSchedule whose endpoint, jobs and clock are facts that a test sets."""

from __future__ import annotations

import copy
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from finetune_api.v1alpha1.finetuneschedule import FineTuneSchedule
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.finetuneschedule.actions import Plan
from finetune_operator.finetuneschedule.observed import Observed
from finetune_operator.finetuneschedule.plan import plan
from finetune_operator.status.conditions import find_condition, timestamp
from finetune_operator.tenants import TenantSettings
from kit.builders.jobs import NOW

Object = dict[str, Any]

NAMESPACE, NAME, ENDPOINT, PUBLISHED = "team-a", "weekly", "headlines", "headline-sentiment"
GATE: Object = {"name": "better", "metric": "exactMatch", "overPublished": "-0.02"}
TEMPLATE: Object = {
    "spec": {
        "model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"},
        "dataset": {"sources": [{"uri": "s3://data/headlines.jsonl"}]},
        "output": {"uri": "s3://models/team-a"},
        "evaluation": {"gates": [GATE]},
    }
}
NIGHTLY: Object = {"cron": "0 3 * * *"}


def schedule(name: str = NAME, **spec: Any) -> Object:
    """Return a schedule that trains every night, as the API server stores it."""
    spec = {"jobTemplate": TEMPLATE, "triggers": NIGHTLY, "promote": "Auto", **spec}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneSchedule",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-of-{name}",
            "generation": 1,
            "creationTimestamp": timestamp(NOW),
        },
        "spec": copy.deepcopy(spec),
    }


def endpoint(**status: Any) -> Object:
    """Return an endpoint that answers with version 1."""
    known = {"active": {"version": 1}, "capture": {"since": timestamp(NOW), "rows": 0}}
    return {
        "metadata": {"name": ENDPOINT, "namespace": NAMESPACE, "uid": "uid-of-the-endpoint"},
        "spec": {"jobRef": {"name": PUBLISHED}},
        "status": {**known, **status},
    }


def ended(condition: str, reason: str = "", message: str = "", **status: Any) -> Object:
    """Return the status of a FineTuneJob that has ended."""
    end = {"type": condition, "status": "True", "reason": reason, "message": message}
    return {"dataset": {"digest": "d" * 64}, **status, "conditions": [end]}


def published(version: int) -> Object:
    """Return the status of a FineTuneJob that has published a version."""
    return ended("Complete", "Published", artifact={"version": version})


class ScheduleWorld:
    """An API server with one schedule, and operators that look at it.

    Attributes:
        jobs: The FineTuneJobs by name.
        created: Names of all jobs that were ever created, in their order.
        deleted: All jobs that the operator has deleted, in their order.
        settings: What the administrator allows; None for no bounds.
        num_older: Older schedules of the namespace.
        refusal: Why the API server takes no job.
        events: All Events: reason and message.
    """

    def __init__(self, endpoint: Object | None = None, **spec: Any) -> None:
        if endpoint is not None:
            spec = {"endpointRef": {"name": ENDPOINT}, **spec}
        self.schedule = schedule(**spec)
        self.endpoint = endpoint
        self.now = NOW
        self.jobs: dict[str, Object] = {}
        self.created: list[str] = []
        self.deleted: list[Object] = []
        self.settings: TenantSettings | None = None
        self.num_older = 0
        self.refusal: Refusal | None = None
        self.events: list[tuple[str, str]] = []
        self.last = Plan()
        self.version = 0

    @property
    def status(self) -> Object:
        """The stored status."""
        found: Object = self.schedule.get("status") or {}
        return found

    @property
    def active(self) -> Object:
        """The cycle under way; empty if none is."""
        found: Object = self.status.get("active") or {}
        return found

    @property
    def outcomes(self) -> list[str]:
        """What came of the ended cycles."""
        return [each["outcome"] for each in self.status.get("history", [])]

    def condition(self, kind: str = "Ready") -> tuple[str, str]:
        """Return status and reason of a condition."""
        found = find_condition(self.status["conditions"], kind)
        assert found is not None
        return found["status"], found["reason"]

    def edit(self, **spec: Any) -> None:
        """Change the spec; a value of None removes a field."""
        changed = {**self.schedule["spec"], **spec}
        self.schedule["spec"] = {k: v for k, v in changed.items() if v is not None}
        self.schedule["metadata"]["generation"] += 1
        self.version += 1

    def ask(self, value: str) -> None:
        """Ask for a cycle by annotation."""
        self.schedule["metadata"]["annotations"] = {"finetune.dev/trigger": value}
        self.version += 1

    def tell(self, **status: Any) -> None:
        """Change the status of the endpoint."""
        assert self.endpoint is not None
        self.endpoint = {**self.endpoint, "status": {**self.endpoint["status"], **status}}

    def capture(self, rows: int = 0, feedback: int = 0, since: datetime = NOW) -> None:
        """Set what the endpoint has counted."""
        self.tell(capture={"since": timestamp(since), "rows": rows, "feedback": feedback})

    def observe(self) -> Observed:
        """Return the facts of this moment."""
        known = copy.deepcopy(self.schedule)
        job = self.jobs.get(self.active.get("job", ""))
        return Observed(
            schedule=known,
            parsed=FineTuneSchedule.from_stored({k: v for k, v in known.items() if k != "status"}),
            endpoint=copy.deepcopy(self.endpoint),
            job=copy.deepcopy(job),
            is_job_gone=job is None and bool(self.active.get("jobUid")),
            gpu_hours=Decimal(((job or {}).get("status") or {}).get("hours", 0)),
            refusal=self.refusal if job is None else None,
            jobs=tuple(copy.deepcopy(list(self.jobs.values()))),
            num_jobs=len(self.jobs),
            num_older=self.num_older,
            settings=self.settings,
        )

    def write(self, made: Plan, version: int) -> bool:
        """Store what was planned for a version of the schedule; False at a conflict."""
        if made.status is not None:
            if version != self.version:
                return False
            self.schedule["status"] = copy.deepcopy(dict(made.status))
            self.version += 1
        self.events += [(each.reason, each.message) for each in made.events]
        return True

    def create(self, made: Plan) -> None:
        """Create the job of a plan; one that exists is left as it is."""
        if made.create is None or self.refusal is not None:
            return
        name = made.create["metadata"]["name"]
        if name not in self.jobs:
            self.created.append(name)
            body = copy.deepcopy(made.create)
            body["metadata"]["uid"] = f"uid-{len(self.created)}"
            body["metadata"]["creationTimestamp"] = timestamp(self.now)
            self.jobs[name] = body

    def delete(self, made: Plan) -> None:
        """Delete the jobs that a plan no longer keeps."""
        for job in made.delete:
            if (found := self.jobs.pop(job["metadata"]["name"], None)) is not None:
                self.deleted.append(found)

    def look(self, seconds: float = 0.0, *, crashes: bool = False) -> Plan:
        """Let time pass and plan until nothing changes; ``crashes``: once, and create nothing."""
        self.now += timedelta(seconds=seconds)
        for _ in range(4):
            made = plan(self.observe(), self.now)
            assert self.write(made, self.version)
            self.last = made
            if crashes:
                break
            self.delete(made)
            self.create(made)
            if made.status is None and (made.create is None or self.refusal is not None):
                break
        return self.last

    def look_at(self, moment: datetime) -> Plan:
        """Set the clock and plan until nothing changes."""
        self.now = moment
        return self.look()

    def end_job(self, status: Object, hours: str = "0") -> None:
        """Let the job of the cycle under way end."""
        self.jobs[self.active["job"]]["status"] = {**status, "hours": hours}
