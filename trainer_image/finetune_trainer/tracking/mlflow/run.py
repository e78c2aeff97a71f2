"""A run in MLflow: found by the job's UID or created, and completed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.tracking.content import (
    SWEEP_TAG,
    UID_TAG,
    Facts,
    Point,
    identity_of,
    unknown_points,
)
from finetune_trainer.tracking.mlflow.server import (
    ALREADY_EXISTS,
    NOT_THERE,
    MlflowError,
    MlflowServer,
)
from finetune_trainer.tracking.tracker import RunStatus, TrackerError

BATCH = 900
"""Values of one call: MLflow takes a thousand."""
PARAMS = 100
_ARTIFACTS = "mlflow-artifacts:"


@dataclass(kw_only=True, slots=True)
class OpenRun:
    """An existing run, and its state on the server.

    Attributes:
        run_id: MLflow's name of it.
        experiment_id: Of its experiment.
        artifact_uri: Address of its artefacts.
        params: Its settings.
        tags: Its tags.
        last_steps: Last step by metric.
        status: RUNNING, FINISHED, FAILED or KILLED.
    """

    run_id: str
    experiment_id: str
    artifact_uri: str = ""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    last_steps: dict[str, int] = field(default_factory=dict)
    status: str = "RUNNING"


def open_run(server: MlflowServer, job: ResolvedJob, experiment: str) -> OpenRun:
    """Return the job's run; create it if needed. Raise ``TrackerError`` on failure."""
    experiment_id = _find_experiment(server, experiment)
    found = _find(server, experiment_id, UID_TAG, job.uid)
    if found is not None:
        return found
    tags = {
        **identity_of(job),
        "mlflow.source.name": f"{job.namespace}/{job.name}",
        "mlflow.source.type": "JOB",
    }
    if job.sweep:
        sweep = f"{job.namespace}/{job.sweep}"
        parent = _find(server, experiment_id, SWEEP_TAG, sweep) or _create(
            server, experiment_id, job.sweep, SWEEP_TAG, {SWEEP_TAG: sweep}
        )
        tags["mlflow.parentRunId"] = parent.run_id
    return _create(server, experiment_id, job.name, UID_TAG, tags)


def send_points(server: MlflowServer, run: OpenRun, points: Sequence[Point]) -> None:
    """Send the values that the run lacks."""
    now = int(time.time() * 1000)
    lacking = unknown_points(points, run.last_steps)
    for start in range(0, len(lacking), BATCH):
        batch = lacking[start : start + BATCH]
        metrics = [
            {"key": p.key, "value": p.value, "step": p.step, "timestamp": now} for p in batch
        ]
        server.post("runs/log-batch", {"run_id": run.run_id, "metrics": metrics})
        for point in batch:
            run.last_steps[point.key] = max(point.step, run.last_steps.get(point.key, -1))


def send_facts(server: MlflowServer, run: OpenRun, facts: Facts) -> None:
    """Send the settings, tags and values that the run lacks.

    MLflow cannot change a setting: a different one becomes a tag, ``changed.<name>``.
    """
    changed = {
        f"changed.{key}": text
        for key, text in facts.params.items()
        if run.params.get(key, text) != text
    }
    params = {key: text for key, text in facts.params.items() if key not in run.params}
    wanted = {**facts.tags, **changed}
    tags = {key: text for key, text in wanted.items() if run.tags.get(key) != text}
    items = list(params.items())
    for start in range(0, len(items), PARAMS):
        some = items[start : start + PARAMS]
        server.post("runs/log-batch", {"run_id": run.run_id, "params": _pairs(dict(some))})
        run.params.update(some)
    if tags:
        server.post("runs/log-batch", {"run_id": run.run_id, "tags": _pairs(tags)})
        run.tags.update(tags)
    send_points(server, run, facts.points)


def set_status(server: MlflowServer, run: OpenRun, status: RunStatus) -> None:
    """Say that the run goes on, or how it ended."""
    if run.status == status:
        return
    body: dict[str, Any] = {"run_id": run.run_id, "status": status}
    if status != "RUNNING":
        body["end_time"] = int(time.time() * 1000)
    server.post("runs/update", body)
    run.status = status


def upload(server: MlflowServer, run: OpenRun, file: Path, content_type: str) -> None:
    """Store a file with the run.

    Raises:
        TrackerError: The server leaves artefacts to clients, which have no access to its storage.
    """
    if not run.artifact_uri.startswith(_ARTIFACTS):
        raise TrackerError(
            f"{server.uri} does not take files itself (its artefacts lie in {run.artifact_uri}); "
            "start it with --serve-artifacts, or leave uploadReport out"
        )
    path = run.artifact_uri.removeprefix(_ARTIFACTS).lstrip("/")
    server.put_artifact(f"{path}/{file.name}", file, content_type)


def register(
    server: MlflowServer, run: OpenRun, name: str, *, source: str, tags: Mapping[str, str]
) -> None:
    """Make the adapter a version of a registered model, once for a run."""
    known = server.get("model-versions/search", {"filter": f"name='{name}'", "max_results": "200"})
    if any(each.get("run_id") == run.run_id for each in known.get("model_versions", [])):
        return
    try:
        server.post("registered-models/create", {"name": name})
    except MlflowError as error:
        if error.code != ALREADY_EXISTS:
            raise
    server.post(
        "model-versions/create",
        {"name": name, "source": source, "run_id": run.run_id, "tags": _pairs(tags)},
    )


def page_of(server: MlflowServer, run: OpenRun) -> str:
    """Return the address of the run's page."""
    return f"{server.uri}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def _find_experiment(server: MlflowServer, name: str) -> str:
    for is_last in (False, True):
        try:
            found = server.get("experiments/get-by-name", {"experiment_name": name})
            return str(found["experiment"]["experiment_id"])
        except MlflowError as error:
            if error.code != NOT_THERE or is_last:
                raise
        try:
            return str(server.post("experiments/create", {"name": name})["experiment_id"])
        except MlflowError as error:
            if error.code != ALREADY_EXISTS:  # another job has just made it
                raise
    raise AssertionError("unreachable")


def _find(server: MlflowServer, experiment_id: str, tag: str, value: str) -> OpenRun | None:
    found = server.post(
        "runs/search",
        {
            "experiment_ids": [experiment_id],
            "filter": f"tags.`{tag}` = '{value}'",
            "order_by": ["attributes.start_time ASC", "attributes.run_id ASC"],
            "max_results": 1,
        },
    )
    runs = found.get("runs", [])
    return _read(runs[0]) if runs else None


def _create(
    server: MlflowServer, experiment_id: str, name: str, key: str, tags: Mapping[str, str]
) -> OpenRun:
    """Create a run; of several the oldest stays."""
    made = server.post(
        "runs/create",
        {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": int(time.time() * 1000),
            "tags": _pairs(tags),
        },
    )
    run = _read(made["run"])
    first = _find(server, experiment_id, key, tags[key])
    if first is None or first.run_id == run.run_id:
        return run
    server.post("runs/delete", {"run_id": run.run_id})
    return first


def _read(wire: Mapping[str, Any]) -> OpenRun:
    info, data = wire["info"], wire.get("data", {})
    return OpenRun(
        run_id=info["run_id"],
        experiment_id=str(info["experiment_id"]),
        artifact_uri=info.get("artifact_uri", ""),
        params={each["key"]: each.get("value", "") for each in data.get("params", [])},
        tags={each["key"]: each.get("value", "") for each in data.get("tags", [])},
        last_steps={each["key"]: int(each.get("step", 0)) for each in data.get("metrics", [])},
        status=info.get("status", "RUNNING"),
    )


def _pairs(texts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": text} for key, text in texts.items()]
