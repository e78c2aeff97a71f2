"""A tracker that is ill costs a job seconds, one message, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_trainer.tracking.mlflow.server import MlflowServer, authorization
from finetune_trainer.tracking.tracker import TrackerError
from kit.processes.eventually import patient
from kit.reports.tracked import close, job_of, track, write_curve
from kit.servers.mlflow_server import OwnServer


@pytest.fixture
def server() -> Iterator[OwnServer]:
    server = OwnServer()
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("ill", "said"),
    [
        (401, "refuses the credentials (HTTP 401)"),
        (403, "refuses the credentials (HTTP 403)"),
        (302, "sends to another address (HTTP 302), which is not followed"),
        (500, "answers HTTP 500"),
        (507, "answers HTTP 507"),
        (429, "answers HTTP 429"),
        ("garbage", "does not answer as MLflow does"),
    ],
)
def test_what_ails_it_is_told_once(
    server: OwnServer, tmp_path: Path, ill: int | str, said: str
) -> None:
    server.ill = ill
    curve, told = tmp_path / "metrics.jsonl", []
    write_curve(curve, 1, 2, 3)
    result = close(track(job_of(server, "u"), told, curve), "FINISHED")
    assert result.uris == []
    assert said in result.problem
    assert len(told) == 1
    assert server.read()["runs"] == []


def test_one_that_says_nothing_is_waited_for_no_longer_than_said(server: OwnServer) -> None:
    server.ill = "silent"
    told: list[str] = []
    tracking = track(job_of(server, "u"), told)
    began = time.monotonic()
    result = close(tracking, "FINISHED", patience=0.3)
    assert time.monotonic() - began < patient(5)
    assert "did not take everything in time" in result.problem
    assert len(told) == 1


def test_a_value_it_takes_offence_at_does_not_keep_the_next_back(
    server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = server._runs_log_batch

    def refuse(body: dict) -> tuple[int, dict]:
        if any(each["step"] == 2 for each in body.get("metrics", [])):
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "too strange"}
        return real(body)

    monkeypatch.setattr(server, "_runs_log_batch", refuse)
    monkeypatch.setattr("finetune_trainer.tracking.curve.PIECE_BYTES", 60)
    curve = tmp_path / "metrics.jsonl"
    write_curve(curve, 1, 2, 3)
    result = close(track(job_of(server, "u"), [], curve), "FINISHED")
    assert "too strange" in result.problem
    (run,) = server.read()["runs"]
    assert [step for step, _ in run["metrics"]["loss"]] == [1, 3]
    assert run["status"] == "FINISHED"


def test_of_two_that_make_a_run_at_once_the_older_stays(server: OwnServer) -> None:
    job = job_of(server, "u")
    close(track(job))
    found = server._runs_search
    # The second looked before the first had made it.
    answers = [(200, {"runs": []})]
    server._runs_search = lambda body: answers.pop() if answers else found(body)  # type: ignore[method-assign]
    close(track(job))
    (run,) = server.read()["runs"]
    assert run["id"] == "r0"
    assert [run["deleted"] for run in server.runs] == [False, True]


@pytest.mark.parametrize(
    ("secret", "header"),
    [
        ({}, {}),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, {"Authorization": "Bearer t"}),
        ({"MLFLOW_TRACKING_USERNAME": "a"}, {"Authorization": "Basic YTo="}),
        (
            {"MLFLOW_TRACKING_USERNAME": "a", "MLFLOW_TRACKING_PASSWORD": "ü"},
            {"Authorization": "Basic YTrDvA=="},
        ),
    ],
)
def test_a_secret_becomes_a_header(secret: dict[str, str], header: dict[str, str]) -> None:
    assert authorization(secret.get) == header


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "https://127.0.0.1:1", "http://no.invalid"])
def test_an_address_where_nobody_answers_is_named(uri: str) -> None:
    with pytest.raises(TrackerError, match=f"{uri} cannot be reached"):
        MlflowServer(uri, dict, timeout_seconds=2).post("runs/search", {})
