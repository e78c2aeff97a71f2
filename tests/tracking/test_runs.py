"""What a tracker knows of a run after its stages, whatever happened on the way.

Runs against a server of our own; ``make tracking`` runs it against a real MLflow, read back by
MLflow's own client.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.tracking.content import Facts, Version
from kit.processes.eventually import eventually
from kit.reports.tracked import PATIENCE, Server, close, job_of, track, write_curve
from kit.servers.mlflow_server import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


def runs_of(server: Server, uid: str) -> list[dict[str, Any]]:
    return [run for run in server.read()["runs"] if run["tags"].get("finetune.uid") == uid]


def test_the_curve_is_sent_once_however_often_a_run_begins_again(
    server: Server, tmp_path: Path
) -> None:
    job, curve, told = job_of(server, "u-resumed"), tmp_path / "metrics.jsonl", []
    write_curve(curve, *range(1, 11))
    with curve.open("a") as file:
        file.write('{"step": 11, "loss"')  # a line that is being written
    first = close(track(job, told, curve))
    # The next attempt resumes at step 6 and logs the steps after it again.
    write_curve(curve, *range(1, 7))
    second = track(job, told, curve)
    write_curve(curve, *range(1, 16))
    assert close(second, "KILLED") == first
    (run,) = runs_of(server, "u-resumed")
    steps = [step for step, _ in run["metrics"]["loss"]]
    assert steps == list(range(1, 16))
    assert run["status"] == "KILLED"
    assert (run["name"], run["experiment"]) == ("headlines", "team-a")
    assert first.problem == ""
    (page,) = first.uris
    assert page.startswith(f"{server.uri}/#/experiments/")
    assert page.endswith(f"/runs/{run['id']}")
    assert told == []
    close(track(job))
    assert runs_of(server, "u-resumed")[0]["status"] == "RUNNING"


def test_a_long_curve_is_sent_in_pieces(server: Server, tmp_path: Path) -> None:
    curve = tmp_path / "metrics.jsonl"
    write_curve(curve, *range(1, 8001))
    assert close(track(job_of(server, "u-long"), curve=curve)).problem == ""
    (run,) = runs_of(server, "u-long")
    assert [step for step, _ in run["metrics"]["x"]] == list(range(1, 8001))


def test_settings_and_what_they_came_to_are_parameters(server: Server, tmp_path: Path) -> None:
    job, curve = job_of(server, "u-params"), tmp_path / "metrics.jsonl"
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"micro_batch_size": 8, "strategy": "DDP"}))
    close(track(job, curve=curve))
    # An attempt that ran out of memory halves the micro batch.
    recipe.write_text(json.dumps({"micro_batch_size": 4, "strategy": "DDP"}))
    assert close(track(job, curve=curve)).problem == ""
    (run,) = runs_of(server, "u-params")
    assert run["params"]["model.uri"] == job.spec.model.uri
    assert run["params"]["hyperparameters.learningRate"] == "auto"
    assert run["params"]["recipe.micro_batch_size"] == "8"
    assert run["tags"]["changed.recipe.micro_batch_size"] == "4"


def test_a_published_adapter_becomes_one_version_of_the_registered_model(
    server: Server, tmp_path: Path
) -> None:
    job = job_of(server, "u-published", registeredModel="headline classifier")
    page = tmp_path / "report.html"
    page.write_text("<p>scores</p>")
    version = Version(source="s3://m/runs/a/adapter", number=3)
    for _ in range(2):
        tracking = track(job)
        tracking.add(Facts(tags={"finetune.version": "3"}, report=page, version=version))
        assert close(tracking, "FINISHED").problem == ""
    (run,) = runs_of(server, "u-published")
    assert (run["status"], run["artifacts"]) == ("FINISHED", ["report.html"])
    (made,) = [v for v in server.read()["versions"] if v["name"] == "headline classifier"]
    assert (made["source"], made["run_id"]) == ("s3://m/runs/a/adapter", run["id"])
    assert made["tags"] == {"finetune.version": "3", "finetune.uid": "u-published"}


def test_trials_of_a_sweep_lie_below_one_run(server: Server) -> None:
    for uid in ("u-trial-1", "u-trial-2"):
        close(track(job_of(server, uid, sweep="rates", experiment="rates and ranks")))
    runs = [run for run in server.read()["runs"] if run["experiment"] == "rates and ranks"]
    (parent,) = [run for run in runs if run["tags"].get("finetune.sweep") == "team-a/rates"]
    children = [run for run in runs if run["tags"].get("mlflow.parentRunId") == parent["id"]]
    assert sorted(run["tags"]["finetune.uid"] for run in children) == ["u-trial-1", "u-trial-2"]
    assert len(runs) == 3


def test_a_server_that_stops_in_the_middle_gets_the_rest_when_it_is_back(
    server: Server, tmp_path: Path
) -> None:
    job, curve, told = job_of(server, "u-cut"), tmp_path / "metrics.jsonl", []
    write_curve(curve, *range(1, 6))
    tracking = track(job, told, curve)
    eventually(lambda: bool(runs_of(server, "u-cut")), timeout=PATIENCE)
    server.stop()
    try:
        write_curve(curve, *range(1, 9))
        eventually(lambda: bool(told), timeout=PATIENCE)
        write_curve(curve, *range(1, 12))
    finally:
        server.start()
    result = close(tracking, "FINISHED")
    assert len(told) == 1
    assert "cannot be reached" in told[0]
    assert told[0].endswith("The job does not need it and goes on")
    assert result.problem == ""
    (run,) = runs_of(server, "u-cut")
    assert [step for step, _ in run["metrics"]["loss"]] == list(range(1, 12))
