"""Jobs that name trackers, and what tells those of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_api.protocol.stage_results import TrackingResult
from finetune_api.protocol.trainer import ResolvedJob, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.tracking.content import facts_of_job
from finetune_trainer.tracking.mlflow.server import MlflowServer
from finetune_trainer.tracking.mlflow.tracker import MlflowTracker
from finetune_trainer.tracking.tracker import RunStatus, Tracker
from finetune_trainer.tracking.worker import Tracking, close_all
from kit.cases.spec_cases import minimal_job
from kit.servers.mlflow_server import OwnServer, RealServer

PATIENCE = 60.0
Server = OwnServer | RealServer


def job_with(uid: str, tracking: dict[str, Any], *, sweep: str = "") -> ResolvedJob:
    body = minimal_job("headlines")
    body["spec"] = {**body["spec"], "tracking": tracking}
    if sweep:
        body["metadata"]["labels"] = {"finetune.dev/sweep": sweep}
    return resolve_job(FineTuneJob.from_wire(body), namespace="team-a", uid=uid)


def job_of(server: Server, uid: str, *, sweep: str = "", **more: Any) -> ResolvedJob:
    return job_with(uid, {"mlflow": {"uri": server.uri, **more}}, sweep=sweep)


def mlflow_of(job: ResolvedJob) -> MlflowTracker:
    assert job.spec.tracking is not None
    settings = job.spec.tracking.mlflow
    assert settings is not None
    return MlflowTracker(job, settings, MlflowServer(settings.uri, dict, timeout_seconds=20))


def track(
    job: ResolvedJob,
    told: list[str] | None = None,
    curve: Path | None = None,
    *,
    tracker: Tracker | None = None,
) -> Tracking:
    return Tracking(
        tracker or mlflow_of(job),
        facts_of_job(job),
        curve=curve,
        recipe=curve.with_name("recipe.json") if curve else None,
        tell=([] if told is None else told).append,
        pause_seconds=0.05,
    ).start()


def close(
    tracking: Tracking, status: RunStatus = "RUNNING", *, patience: float = PATIENCE
) -> TrackingResult:
    return close_all([tracking], status, patience_seconds=patience)


def write_curve(path: Path, *steps: int) -> None:
    path.write_text("".join(json.dumps({"step": s, "loss": 1 / s, "x": 1}) + "\n" for s in steps))
