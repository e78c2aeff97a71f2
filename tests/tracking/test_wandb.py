"""What Weights & Biases is told of a run, by its own client, and what a client may do meanwhile.

The client itself runs where ``make tracking`` has installed it, against a server of our own. All
else is about a client that is missing, dies or hangs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.tracking.content import Facts, Point
from finetune_trainer.tracking.tracker import TrackerError
from finetune_trainer.tracking.wandb import client
from finetune_trainer.tracking.wandb.tracker import WandbTracker
from kit.processes.eventually import eventually
from kit.reports.tracked import close, job_with, track, write_curve
from kit.servers.wandb_server import ENTITY, WandbServer

PYTHON = os.environ.get("FINETUNE_TRACKERS_PYTHON")
KEY = "k" * 40
Make = Callable[..., WandbTracker]

needs_the_client = pytest.mark.skipif(PYTHON is None, reason="run by make tracking")

PATIENT = 240.0
"""Seconds: the client takes many to start on a machine that is busy."""


@pytest.fixture
def server() -> Iterator[WandbServer]:
    server = WandbServer()
    yield server
    server.stop()


def job_at(uri: str, *, sweep: str = "", **more: str) -> ResolvedJob:
    named = {"uri": uri, "credentialsRef": {"name": "keys"}, **more}
    return job_with("u-1", {"wandb": named}, sweep=sweep)


def tracker_of(
    job: ResolvedJob,
    folder: Path,
    *,
    command: Sequence[str] | None = (PYTHON or sys.executable, "-I", client.__file__),
    key: str = KEY,
) -> WandbTracker:
    assert job.spec.tracking is not None
    settings = job.spec.tracking.wandb
    assert settings is not None
    return WandbTracker(job, settings, lambda: key, folder, command=command)


def script(text: str) -> tuple[str, ...]:
    """Return a client of our own: ``line`` is what it was asked."""
    begin = "import json, os, signal, sys, time\nfor line in sys.stdin:\n"
    lines = "\n".join(f"    {each}" for each in text.splitlines())
    return (sys.executable, "-I", "-c", begin + lines)


FINE = "print(json.dumps({'page': 'http://wandb/run'}), flush=True)"


# ---- the client itself ---------------------------------------------------------------------------


@needs_the_client
def test_a_run_that_begins_again_goes_on_where_the_server_is(
    server: WandbServer, tmp_path: Path
) -> None:
    job = job_at(server.uri, sweep="rates", project="headlines 2026")
    curve, told = tmp_path / "metrics.jsonl", []
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"learning_rate": 2e-4, "strategy": "DDP"}))
    write_curve(curve, *range(1, 11))
    first = close(
        track(job, told, curve, tracker=tracker_of(job, tmp_path)), "KILLED", patience=PATIENT
    )
    assert server.runs["u-1"]["exit_code"] == 1
    write_curve(curve, *range(1, 16))
    tracking = track(job, told, curve, tracker=tracker_of(job, tmp_path))
    points = (Point(key="test.exactMatch.tuned", value=0.75, step=0),)
    tracking.add(Facts(tags={"finetune.version": "3"}, points=points))
    assert close(tracking, "FINISHED", patience=PATIENT) == first
    assert first.uris == [f"{server.uri}/{ENTITY}/headlines%202026/runs/u-1"]
    assert first.problem == ""
    assert told == []
    run = server.runs["u-1"]
    assert [(line["_step"], line["loss"]) for line in run["history"]] == [
        (step, 1 / step) for step in range(1, 16)
    ]
    assert (run["group"], run["title"], run["exit_code"]) == ("rates", "headlines", 0)
    assert run["config"]["recipe.learning_rate"] == 2e-4
    assert run["config"]["recipe.strategy"] == "DDP"
    assert run["config"]["finetune.version"] == "3"
    assert run["config"]["finetune.namespace"] == "team-a"
    assert run["summary"]["test.exactMatch.tuned"] == 0.75


@needs_the_client
def test_nothing_of_the_machine_leaves(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_NOTES", "of the environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the environment")
    job = job_at(server.uri)
    assert close(track(job, tracker=tracker_of(job, tmp_path)), patience=PATIENT).problem == ""
    sent = "\n".join(server.bodies)
    for secret in ("of the environment", os.uname().nodename, str(tmp_path), KEY):
        assert secret not in sent
    assert len(server.headers) == 1


@needs_the_client
@pytest.mark.parametrize(
    ("ill", "said"), [(401, "refuses the key (HTTP 401)"), (500, "HTTP 500"), (404, "error 404")]
)
def test_what_ails_the_server_is_told(
    server: WandbServer, tmp_path: Path, ill: int, said: str
) -> None:
    server.ill = ill
    with pytest.raises(TrackerError, match=r"^http://127") as refused:
        tracker_of(job_at(server.uri), tmp_path).open()
    assert said in str(refused.value)
    assert KEY not in str(refused.value)


# ---- a client that is missing, dies or hangs -----------------------------------------------------


def test_an_image_without_the_client_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_at("http://wandb:8080")
    command = (sys.executable, "-I", "-S", client.__file__)  # without site packages
    with pytest.raises(TrackerError, match=r"has no package wandb: install requirements/wandb"):
        tracker_of(job, tmp_path, command=command).open()
    monkeypatch.setenv("FINETUNE_WANDB_PYTHON", "/opt/wandb/bin/python")
    with pytest.raises(TrackerError, match=r"cannot start /opt/wandb/bin/python: .*No such file"):
        tracker_of(job, tmp_path, command=None).open()


def test_a_secret_without_the_key_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TrackerError, match=r"there is no WANDB_API_KEY: .*credentialsRef"):
        tracker_of(job_at("http://wandb:8080"), tmp_path, key="").open()


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("os._exit(3)", "the client of wandb has died"),
        ("print('Traceback', flush=True)", "the client of wandb has died"),
        (f"print(json.dumps({{'error': 'no {KEY} here'}}), flush=True)", "wandb:8080: no *** here"),
    ],
)
def test_a_client_that_fails_is_told_without_the_key(does: str, said: str, tmp_path: Path) -> None:
    tracker = tracker_of(job_at("http://wandb:8080"), tmp_path, command=script(does))
    with pytest.raises(TrackerError) as failed:
        tracker.open()
    assert said in str(failed.value)
    assert KEY not in str(failed.value)
    assert not tracker.is_open


def test_a_client_that_hangs_is_ended_with_the_stage(tmp_path: Path) -> None:
    hangs = script("open('pid', 'w').write(str(os.getpid()))\nsignal.pause()")
    job, told = job_at("http://wandb:8080"), []
    tracking = track(job, told, tracker=tracker_of(job, tmp_path, command=hangs))
    pid = tmp_path / "pid"
    eventually(lambda: pid.exists() and pid.read_text() != "", timeout=60)
    result = close(tracking, "FINISHED", patience=0.3)
    assert result.problem.startswith("http://wandb:8080 ")
    assert len(told) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_client_that_dies_in_the_middle_is_told_all_again(tmp_path: Path) -> None:
    dies_once = script(
        "open('asked', 'a').write(line)\n"
        "if 'points' in line and not os.path.exists('died'):\n"
        "    open('died', 'w').close()\n"
        "    os._exit(1)\n" + FINE
    )
    job, told, curve = job_at("http://wandb:8080"), [], tmp_path / "metrics.jsonl"
    write_curve(curve, 1, 2)
    tracking = track(job, told, curve, tracker=tracker_of(job, tmp_path, command=dies_once))
    eventually(lambda: bool(told), timeout=60)
    write_curve(curve, 1, 2, 3)
    result = close(tracking)
    assert (result.uris, result.problem) == (["http://wandb/run"], "")
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert [each["call"] for each in asked].count("open") == 2
    rows = [row for each in asked if each["call"] == "points" for row in each["rows"]]
    assert [step for step, _ in rows[-3:]] == [1, 2, 3]


def test_the_client_knows_the_way_out_and_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3")
    monkeypatch.setenv("WANDB_BASE_URL", "http://elsewhere")
    writes = script("open('env', 'w').write(json.dumps(dict(os.environ)))\n" + FINE)
    tracker = tracker_of(job_at("http://wandb:8080"), tmp_path, command=writes)
    tracker.open()
    tracker.stop()
    known = json.loads((tmp_path / "env").read_text())
    assert known["HTTPS_PROXY"] == "http://proxy:3128"
    assert known["HOME"] == str(tmp_path)
    assert not {"AWS_SECRET_ACCESS_KEY", "WANDB_BASE_URL", "WANDB_API_KEY"} & set(known)
