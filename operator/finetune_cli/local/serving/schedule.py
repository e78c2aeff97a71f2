"""A FineTuneSchedule on this machine: one look at its triggers, and its cycle if one is due.

The operator's decisions are taken over a folder of captured answers. A file keeps the schedule,
with the status that a cluster would have.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.meta import SCHEDULE_KIND
from finetune_api.protocol.trainer import CLASS_OF_EXIT_CODE, NON_RETRYABLE_EXIT_CODES
from finetune_api.uris import replace_uris
from finetune_api.v1alpha1.finetuneschedule import FineTuneSchedule
from finetune_cli.errors import CliError
from finetune_cli.files.documents import Document, kind_of, to_yaml
from finetune_cli.files.kinds import find_problems_of_kind
from finetune_cli.local.job import absolute_uri
from finetune_cli.local.runner import RunOutcome
from finetune_cli.local.serving.monitoring import ACTIVE, read_object

if TYPE_CHECKING:
    from finetune_operator.finetuneschedule.actions import Plan

Object = dict[str, Any]


@dataclass(kw_only=True)
class LocalSchedule:
    """A schedule with its state.

    Attributes:
        body: The object, with the status of the last look.
        endpoint: The endpoint that was served last; None where the schedule names none.
        folder: Folder that paths in its template count from.
        state: File of the state. The jobs of its cycles lie beside it.
        tell: Called with each decision.
    """

    body: Object
    endpoint: Object | None
    folder: Path
    state: Path
    tell: Callable[[str], None]

    def look(self, now: datetime) -> Document | None:
        """Decide, keep the decision, and return the job to run; None if there is none.

        The state names the cycle before its job runs. So a look after a crash goes on with it.
        """
        job = self._plan(now).create
        if job is None:
            return None
        job["metadata"].pop("ownerReferences")  # of a cluster
        replace_uris(job["spec"], lambda uri: absolute_uri(uri, self.folder))
        file = self.state.parent / f"{job['metadata']['name']}.yaml"
        file.write_text(to_yaml(job), encoding="utf-8")
        return Document(source=str(file), body=job, lines={}, first_line=1)

    def note_end(self, outcome: RunOutcome, now: datetime) -> None:
        """Keep what became of the job of the cycle. One that can go on is still under way."""
        status = status_of(outcome)
        if status is None:
            return
        run = outcome.run.job
        gpus = run.world_size if run.spec.resources.gpus_per_node else 0
        self._plan(
            now,
            job={"metadata": {"name": run.name, "uid": run.uid}, "status": status},
            gpu_hours=Decimal(f"{outcome.seconds * gpus / 3600:.3f}"),
        )

    def _plan(self, now: datetime, **known: Any) -> Plan:
        from finetune_operator.finetuneschedule.observed import Observed
        from finetune_operator.finetuneschedule.plan import plan

        known_spec = {key: value for key, value in self.body.items() if key != "status"}
        observed = Observed(
            schedule=self.body,
            parsed=FineTuneSchedule.from_stored(known_spec),
            endpoint=self.endpoint,
            **known,
        )
        found = plan(observed, now)
        for event in found.events:
            if event.reason == "InvalidStatus":
                raise CliError(f"{self.state} cannot be read: {event.message}")
            self.tell(event.message)
        if found.status is not None:
            self.body["status"] = dict(found.status)
        self.state.parent.mkdir(parents=True, exist_ok=True)
        beside = self.state.with_suffix(".new")
        beside.write_text(json.dumps(self.body, indent=1), encoding="utf-8")
        beside.replace(self.state)
        return found


def open_schedule(
    document: Document, *, capture: Path, state: Path, now: datetime, tell: Callable[[str], None]
) -> LocalSchedule:
    """Return a schedule with the state that its file keeps, or without any at the first look.

    Args:
        document: The schedule as written.
        capture: Folder of ``finetune serve --capture``.
        state: File of the state.
        now: The present.
        tell: Called with each decision.

    Raises:
        CliError: The schedule is not valid, nothing was captured for its endpoint, or a file cannot
            be read.
    """
    if kind_of(document.body) != SCHEDULE_KIND:
        raise CliError(f"{document.source} has no {SCHEDULE_KIND}: finetune run runs a job")
    if problems := find_problems_of_kind(document):
        lines = [
            f"{document.source}:{document.line_of(each.location)}: {each}" for each in problems
        ]
        raise CliError("\n".join(lines))
    written, stored = document.body, read_object(state) or {}
    name, namespace = written["metadata"]["name"], written["metadata"].get("namespace")
    endpoint = _endpoint_of(written, capture)
    if endpoint is not None:
        namespace = namespace or endpoint["metadata"]["namespace"]
    known = stored.get("metadata") or {}
    if known and known["name"] != name:
        raise CliError(f"--state {state} is of schedule {known['name']}, not of {name}")
    own = {
        "namespace": namespace or "default",
        "uid": known.get("uid") or f"local-{secrets.token_hex(6)}",
        "generation": int(known.get("generation") or 0) + (stored.get("spec") != written["spec"]),
        "creationTimestamp": known.get("creationTimestamp") or now.isoformat(timespec="seconds"),
    }
    body = {**written, "metadata": {**written["metadata"], **own}}
    body["status"] = stored.get("status") or {}
    return LocalSchedule(
        body=body, endpoint=endpoint, folder=document.folder, state=state, tell=tell
    )


def _endpoint_of(schedule: Object, capture: Path) -> Object | None:
    """Return the endpoint of a schedule, with the counts and the drift of its traffic."""
    wanted = (schedule["spec"].get("endpointRef") or {}).get("name")
    if wanted is None:
        return None
    endpoint = read_object(capture / ACTIVE)
    if endpoint is None:
        raise CliError(
            f"--capture {capture}: it has no {ACTIVE}; give the folder of finetune serve --capture"
        )
    served = (endpoint["metadata"]["namespace"], endpoint["metadata"]["name"])
    namespace = schedule["metadata"].get("namespace") or served[0]
    if served != (namespace, wanted):
        raise CliError(
            f"--capture {capture} has the answers of endpoint {'/'.join(served)}, and"
            f" spec.endpointRef names {namespace}/{wanted}"
        )
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.monitor.running import read_drift
    from finetune_trainer.traffic.counting import count_traffic
    from finetune_trainer.traffic.reading import open_traffic

    try:
        store = open_traffic(capture.absolute().as_uri(), *served)
        counts, drifted = count_traffic(store), read_drift(store)
    except TrainerError as error:
        raise CliError(error.message, exit_code=error.exit_code) from error
    endpoint["status"]["capture"] = {"rows": counts.rows, "feedback": counts.feedback}
    if drifted:
        from finetune_operator.status.conditions import timestamp

        since = timestamp(min(drifted.values()))
        condition = {"type": "Drifted", "status": "True", "lastTransitionTime": since}
        endpoint["status"]["conditions"] = [condition]
    return endpoint


def status_of(outcome: RunOutcome) -> Object | None:
    """Return the end of a run as the status of a FineTuneJob states it; None while it can go on."""
    prepared, evaluation = outcome.preparation, outcome.evaluation
    status: Object = {}
    if prepared is not None:
        status["dataset"] = {"digest": prepared.digest, "testSha256": prepared.test_sha256}
        if prepared.anchor is not None:
            status["dataset"]["anchor"] = prepared.anchor.to_wire()
    if evaluation is None:
        failed = outcome.failed
        if failed is None or outcome.exit_code not in NON_RETRYABLE_EXIT_CODES:
            return None
        told = failed.failure
        reason = (told and told.reason) or CLASS_OF_EXIT_CODE[outcome.exit_code].value
        message = told.message if told else f"stage {failed.stage} failed"
        return {**status, "conditions": [_true("Failed", reason, message)]}
    status["evaluation"] = {"digest": evaluation.digest, "reportUri": evaluation.report_uri}
    conditions = [_true("GoalMet", "GoalReached")] if evaluation.goal_met else []
    if evaluation.version is not None:
        status["artifact"] = {"version": evaluation.version}
        conditions.append(_true("Complete", "Succeeded"))
    elif evaluation.is_missed:
        reason = "GoalNotMet" if evaluation.goal_met is False else "GatesNotMet"
        conditions.append(_true("Failed", reason, evaluation.missed_words))
    else:
        return None  # it passed, and waits for somebody's approval
    return {**status, "conditions": conditions}


def _true(kind: str, reason: str, message: str = "") -> Object:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


def next_step(schedule: LocalSchedule, *, capture: Path, has_passed: bool) -> list[str]:
    """Return what the cycle under way waits for a person to do, a line each.

    Args:
        schedule: The schedule after its last look.
        capture: The folder as the user has named it.
        has_passed: Whether its job has passed goal and gates in this run.
    """
    cycle = schedule.body["status"].get("active") or {}
    if cycle.get("waitsFor") == "Traffic" and schedule.endpoint is not None:
        versions = str(schedule.endpoint["status"]["active"]["manifestUri"]).rsplit("/", 2)[0]
        return [
            "",
            f"To let version {cycle['version']} answer, stop finetune serve and begin it again:",
            f"  finetune serve {versions}/{cycle['version']} --capture {capture}",
        ]
    if cycle and has_passed:
        file = schedule.state.parent / f"{cycle['job']}.yaml"
        return ["", f"To publish what has passed: finetune publish {file} --override --reason WHY"]
    return []
