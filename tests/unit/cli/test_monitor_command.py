"""`finetune monitor` as a person runs it: over a folder, and over an endpoint of a cluster."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune_api.protocol.monitoring import REPORT_PAGE
from finetune_cli.app import app
from finetune_cli.cluster.client import Cluster
from finetune_cli.local.serving import monitoring
from finetune_cli.local.serving.monitoring import note_active
from finetune_cli.views.endpoint import describe
from finetune_trainer.monitor.running import REPORT_KEY
from kit.cases.endpoint_cases import minimal_endpoint
from kit.serving.monitored import START, MonitoredVersion

STATUS: dict[str, Any] = {
    "lastRunTime": "2026-11-29T11:00:00Z",
    "numLooks": 3,
    "numAnswers": 1200,
    "numUsers": 300,
    "signals": [
        {"name": "Vocabulary", "logE": "12", "smallest": "0.11", "since": "2026-11-29T08:00:00Z"},
        {"name": "Errors", "logE": "1.25"},
    ],
    "reportUri": "s3://b/traffic/default/headlines/monitor/report.html",
}


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["monitor", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    body = minimal_endpoint("headlines")
    body["status"] = {"monitor": copy.deepcopy(STATUS)}

    class OneEndpoint:
        def get(self, kind: str, name: str) -> dict[str, Any]:
            assert kind == "finetuneendpoint"
            assert name == "headlines"
            return copy.deepcopy(body)

    monkeypatch.setattr(Cluster, "connect", lambda **_: OneEndpoint())
    return body


def test_an_endpoint_shows_its_last_look(cluster: dict[str, Any]) -> None:
    code, text = run("headlines")
    assert code == 1
    lines = [line.split() for line in text.splitlines()]
    assert ["Vocabulary", "+12.0", "0.11", "2026-11-29T08:00:00Z"] in lines
    assert ["Errors", "+1.2"] in lines
    assert text.startswith("3 looks, the last ")
    assert "1,200 answers of 300 users" in text
    assert STATUS["reportUri"] in text
    assert json.loads(run("headlines", "-o", "json")[1]) == STATUS
    del cluster["status"]["monitor"]["signals"][0]["since"]
    assert run("headlines")[0] == 0


def test_an_endpoint_that_nobody_watches_says_what_to_set(cluster: dict[str, Any]) -> None:
    del cluster["status"]["monitor"]
    result = CliRunner().invoke(app, ["monitor", "headlines"])
    assert "spec.monitor" in str(result.exception)


def test_describe_shows_the_look_and_why_the_last_one_failed(cluster: dict[str, Any]) -> None:
    cluster["status"]["monitor"]["failure"] = "AccessDenied: no"
    lines = describe(cluster, datetime(2026, 11, 29, 12, tzinfo=UTC))
    begin = lines.index("Captured answers:")
    assert lines[begin + 2] == "  the last look failed: AccessDenied: no"
    del cluster["status"]["monitor"]
    assert "Captured answers:" not in describe(cluster, datetime.now(UTC))


def folder_of(world: MonitoredVersion) -> Path:
    """Return the folder of ``finetune serve --capture``, as that leaves it."""
    task = world.task(0)
    active = task.active.to_wire()
    endpoint = {
        "metadata": {"name": "copy", "namespace": "shop"},
        "spec": {"jobRef": {"name": "copy"}},
        "status": {"active": {**active, "since": None}},
    }
    note_active(world.output, endpoint)
    return world.output


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MonitoredVersion:
    made = MonitoredVersion(tmp_path)
    folder_of(made)
    note = world_note(made)
    note["status"]["active"]["since"] = START.isoformat()
    (made.output / monitoring.ACTIVE).write_text(json.dumps(note))
    return made


def world_note(world: MonitoredVersion) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.output / monitoring.ACTIVE).read_text())
    return found


def test_a_folder_is_looked_at_and_shown_then_and_now(world: MonitoredVersion) -> None:
    for hour in range(3):
        world.capture(hour, answer="bad" if hour == 2 else "")
        world.look(hour + 1)
    code, text = run(str(world.output), "--every", "3650d")  # too early for another look
    lines = {line.split()[0]: line.split() for line in text.splitlines()}
    assert code == 1
    assert lines["100"][:5] == ["100", "answers", "of", "100", "users"]
    assert lines["Labels/bad"][2:4] == ["1.000", "100"]
    assert lines["AnswerLength"][2] == "3"  # characters of "bad"
    assert lines["Labels/bad"][-1] == "2026-01-01T03:00:00.000Z"


def test_a_signal_with_too_few_users_of_the_first_window_is_named(
    world: MonitoredVersion,
) -> None:
    for hour in range(2):
        world.capture(hour)
        world.look(hour + 1, signals=["Labels"] if hour == 0 else ["Labels", "Refusals"])
    _, text = run(str(world.output), "--every", "3650d")
    (left_out,) = [line for line in text.splitlines() if line.startswith("Refusals: left out, ")]
    assert left_out.endswith("0 of 50 users")
    page = world.traffic.read_bytes(REPORT_PAGE).decode()
    assert f"<p>{left_out} of the first window</p>" in page


def test_a_report_of_an_older_release_is_no_report_yet(world: MonitoredVersion) -> None:
    world.capture(0)
    world.look(1)
    world.traffic.write_bytes(REPORT_KEY, b'{"parts": []}')
    code, text = run(str(world.output), "--every", "3650d")
    assert (code, text.startswith("no look yet")) == (0, True)


def test_a_folder_that_was_served_a_moment_ago_has_no_look_yet(world: MonitoredVersion) -> None:
    note = world_note(world)
    note["status"]["active"]["since"] = datetime.now(UTC).isoformat()
    (world.output / monitoring.ACTIVE).write_text(json.dumps(note))
    told = "no look yet: the first begins 1d and 5m after the version began to answer\n"
    assert run(str(world.output)) == (0, told)


def test_a_version_that_is_served_again_goes_on_and_another_begins(world: MonitoredVersion) -> None:
    folder_of(world)
    note = world_note(world)
    assert note["status"]["active"]["since"] == START.isoformat()
    note["status"]["active"]["sha256"] = "another"
    (world.output / monitoring.ACTIVE).write_text(json.dumps(note))
    folder_of(world)
    since = datetime.fromisoformat(world_note(world)["status"]["active"]["since"])
    assert datetime.now(UTC) - since < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--every", "soon"], "monitor.every"),
        (["--false-alarms-per-year", "x"], "monitor.falseAlarmsPerYear"),
        (["--min-users", "3"], "monitor.minUsers"),
        (["--window", "soon"], "monitor.window"),
    ],
)
def test_a_setting_that_is_none_is_named(
    world: MonitoredVersion, words: list[str], told: str
) -> None:
    result = CliRunner().invoke(app, ["monitor", str(world.output), *words])
    assert told in str(result.exception)


def test_another_folder_is_told_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["monitor", str(tmp_path)])
    assert "finetune serve --capture" in str(result.exception)
