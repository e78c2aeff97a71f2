"""Jobs that name a tracker, and what tells it of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_api.stage_results import TrackingResult
from finetune_api.trainer import ResolvedJob, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.tracking.mlflow import MlflowServer
from finetune_trainer.tracking.worker import Tracking
from support.mlflow_server import OwnServer, RealServer
from support.spec_cases import minimal_job

PATIENCE = 60.0
Server = OwnServer | RealServer


def job_of(server: Server, uid: str, *, sweep: str = "", **more: Any) -> ResolvedJob:
    body = minimal_job("headlines")
    body["spec"] = {**body["spec"], "tracking": {"mlflow": {"uri": server.uri, **more}}}
    if sweep:
        body["metadata"]["labels"] = {"finetune.dev/sweep": sweep}
    return resolve_job(FineTuneJob.from_wire(body), namespace="team-a", uid=uid)


def track(job: ResolvedJob, told: list[str] | None = None, curve: Path | None = None) -> Tracking:
    assert job.spec.tracking is not None
    settings = job.spec.tracking.mlflow
    return Tracking(
        job,
        settings,
        MlflowServer(settings.uri, dict, timeout_seconds=20),
        curve=curve,
        recipe=curve.with_name("recipe.json") if curve else None,
        tell=([] if told is None else told).append,
        poll_seconds=0.05,
    ).start()


def close(tracking: Tracking, status: str = "RUNNING") -> TrackingResult:
    return tracking.close(status, patience_seconds=PATIENCE)


def write_curve(path: Path, *steps: int) -> None:
    path.write_text("".join(json.dumps({"step": s, "loss": 1 / s, "x": 1}) + "\n" for s in steps))
