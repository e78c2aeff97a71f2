"""Several trackers of one job: one that is ill holds up no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api.protocol.stage_results import TrainResult
from finetune_api.protocol.trainer import Stage
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.run import RunStorage, Workspace
from finetune_trainer.tracking.stage import StageTracking
from kit.reports.tracked import job_with, write_curve
from kit.servers.mlflow_server import OwnServer

TRAINED = TrainResult(
    uri="s3://a", sha256="0", num_bytes=1, manifest_sha256="1", step=3, metrics=[]
)


def test_each_is_told_and_what_ails_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    server = OwnServer()
    named = {
        "mlflow": {"uri": server.uri},
        "wandb": {"uri": "http://wandb:8080", "credentialsRef": {"name": "keys"}},
    }
    job = job_with("u-1", named)
    output = job.spec.output.model_copy(update={"uri": (tmp_path / "models").as_uri()})
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"output": output})})
    work = tmp_path / "work"
    work.mkdir()
    storage = RunStorage(job=job, stage=Stage.TRAIN, say=EventEmitter(Stage.TRAIN).message)
    write_curve(work / "metrics.jsonl", 1, 2, 3)
    try:
        tracking = StageTracking(storage, Workspace(folder=work), is_first_node=True)
        result = tracking.finish(TRAINED)
        assert isinstance(result, TrainResult)
        (run,) = server.read()["runs"]
    finally:
        server.stop()
    assert result.tracking is not None
    assert result.tracking.uris == [f"{server.uri}/#/experiments/0/runs/{run['id']}"]
    assert result.tracking.problem.startswith("http://wandb:8080: there is no WANDB_API_KEY")
    assert [step for step, _ in run["metrics"]["loss"]] == [1, 2, 3]
    messages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len([each for each in messages if "tracking: " in each["message"]]) == 1


def test_only_the_first_node_tells(tmp_path: Path) -> None:
    job = job_with("u-1", {"mlflow": {"uri": "http://nowhere.invalid"}})
    storage = RunStorage(job=job, stage=Stage.TRAIN, say=print)
    tracking = StageTracking(storage, Workspace(folder=tmp_path), is_first_node=False)
    assert tracking.finish(TRAINED) is TRAINED
