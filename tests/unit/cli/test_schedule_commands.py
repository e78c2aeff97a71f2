"""`finetune schedule` as a person runs it, over a cluster that is made up."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.cluster.client import Cluster
from finetune_cli.errors import CliError
from finetune_cli.files.documents import read_single, to_yaml
from finetune_cli.views import schedule as scheduleview
from kit.cases.schedule_cases import minimal_schedule
from kit.reports.judged_text import judge_text

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
AT = "2026-11-29T11:00:00Z"
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "WaitingForTrigger",
    "message": "It waits for its cron table.",
    "lastTransitionTime": AT,
}
ENDED = {
    "time": AT,
    "trigger": "NewFeedback",
    "job": "quarterly-f0123456",
    "jobUid": "uid-1",
    "dataDigest": "0123456789abcdef" * 4,
    "version": 4,
    "verdict": "GoalMet",
    "outcome": "Promoted",
    "endTime": AT,
    "message": "Version 4 answers.",
}
RUNNING = {"time": AT, "trigger": "Manual", "job": "quarterly-m0123456", "waitsFor": "Job"}


def made_schedule() -> dict[str, Any]:
    body = minimal_schedule("quarterly")
    body["metadata"] |= {"namespace": "default", "generation": 1, "creationTimestamp": AT}
    body["spec"] |= {
        "suspend": False,
        "promote": "Approval",
        "endpointRef": {"name": "headlines"},
        "budget": {"jobs": 4, "gpuHours": "40", "per": "30d"},
        "triggers": {"cron": "0 3 1 */3 *", "timeZone": "Europe/Berlin", "newFeedback": 50},
    }
    body["status"] = {
        "observedGeneration": 1,
        "reason": "WaitingForTrigger",
        "conditions": [READY],
        "lastTriggerTime": AT,
        "history": [{**ENDED, "job": "quarterly-1", "outcome": "Deleted"}, ENDED],
        "used": {"since": AT, "jobs": 1, "gpuHours": "2.5"},
        "anchor": {"job": "quarterly-1", "digest": "ab" * 32, "testSha256": "cd" * 32},
    }
    return body


class FakeCluster:
    """One schedule; what is changed is kept."""

    namespace = "default"

    def __init__(self) -> None:
        self.schedule = made_schedule()
        self.patches: list[dict[str, Any]] = []

    def get(self, kind: str, name: str) -> dict[str, Any]:
        assert kind == "finetuneschedule"
        if name != "quarterly":
            raise CliError(f"no FineTuneSchedule {name}")
        return copy.deepcopy(self.schedule)

    def patch(self, kind: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        assert kind == "finetuneschedule"
        self.patches.append(patch)
        for part in ("metadata", "spec"):
            self.schedule[part] |= patch.get(part, {})
        return copy.deepcopy(self.schedule)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    monkeypatch.setattr(Cluster, "connect", lambda **_: made)
    return made


def run(*arguments: str, answer: str = "") -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["schedule", *arguments], input=answer)
    if isinstance(done.exception, CliError):
        return done.exception.exit_code, done.stdout, str(done.exception)
    return done.exit_code, done.stdout, done.stderr


def status(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["status", *arguments])
    error = str(done.exception) if isinstance(done.exception, CliError) else done.stderr
    return done.exit_code, done.stdout, error


def test_the_way_of_each_cycle_is_described_with_a_job_that_is_gone(cluster: FakeCluster) -> None:
    cluster.schedule["status"]["active"] = RUNNING
    told = "\n".join(scheduleview.describe(cluster.schedule, NOW))
    ended = told.partition("History, newest first:\n")[2].splitlines()
    assert [line.split()[0] for line in ended] == ["SINCE", "60m", "60m"]
    cells = ["NewFeedback", "0123456789ab", "quarterly-f0123456", "4", "GoalMet", "Promoted"]
    assert ended[1].split()[1:7] == cells
    assert "quarterly-1" in ended[2]
    assert "Deleted" in ended[2]
    assert "waits for Job" in told
    assert f"1 of 4 jobs, 2.5 of 40 GPU hours per 30d since {AT}" in told
    assert "the test rows of quarterly-1 (data set abababababab), in each cycle again" in told
    assert json.loads(status("schedule/quarterly", "-o", "json")[1])["spec"]
    assert status("schedule/none")[2] == "no FineTuneSchedule none"


def test_a_schedule_that_nobody_has_looked_at_is_shown() -> None:
    body = minimal_schedule()
    assert "no operator has looked at it yet" in "\n".join(scheduleview.describe(body, NOW))


def test_a_cycle_is_asked_for_by_a_new_value_each_time(
    cluster: FakeCluster,
) -> None:
    assert (run("trigger", "quarterly", answer="n\n")[0], cluster.patches) == (1, [])
    code, out, err = run("trigger", "quarterly", answer="y\n")
    assert code == 0
    assert "WaitingForTrigger: It waits for its cron table." in err
    assert "is to begin a cycle" in out
    asked = cluster.patches[0]["metadata"]["annotations"]["finetune.dev/trigger"]
    assert 0 < len(asked) <= 63
    code, _, why = run("trigger", "quarterly", "--yes")
    assert code == 1
    assert "a cycle is asked for already; finetune status schedule/quarterly" in why
    cluster.schedule["status"]["handledTrigger"] = asked
    assert run("trigger", "quarterly", "--yes")[0] == 0
    assert cluster.patches[1]["metadata"]["annotations"]["finetune.dev/trigger"] != asked


def test_a_cycle_under_way_or_a_suspension_is_no_time_for_another_one(cluster: FakeCluster) -> None:
    cluster.schedule["status"]["active"] = RUNNING
    code, _, why = run("trigger", "quarterly", "--yes")
    assert code == 1
    assert "cycle quarterly-m0123456 is under way" in why
    cluster.schedule["spec"]["suspend"] = True
    code, _, why = run("trigger", "quarterly", "--yes")
    assert code == 1
    assert "is suspended: set spec.suspend to false first (kubectl edit ftsch quarterly)" in why
    assert cluster.patches == []


def test_a_schedule_in_a_file_is_judged_and_not_run(tmp_path: Path) -> None:
    is_valid, (line,) = judge_text(tmp_path, to_yaml(minimal_schedule()))
    assert is_valid, line
    is_valid, lines = judge_text(tmp_path, to_yaml(minimal_schedule("x" * 63)))
    assert not is_valid
    assert "metadata.name" in lines[-1]
    body = minimal_schedule()
    body["spec"]["triggers"]["cron"] = "@daily"
    is_valid, lines = judge_text(tmp_path, to_yaml(body))
    assert not is_valid
    assert "spec.triggers.cron" in lines[-1]
    assert "must be five fields" in lines[-1]
    file = tmp_path / "schedule.yaml"
    file.write_text(to_yaml(minimal_schedule()))
    with pytest.raises(CliError, match="is a FineTuneSchedule, not a FineTuneJob"):
        read_single(str(file))


def test_a_schedule_is_read_and_changed_at_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[Any, ...]] = []

    def answer(_: Cluster, method: str, path: str, query: Any = None, **given: Any) -> Any:
        sent.append((method, path, given.get("body")))
        return {}

    monkeypatch.setattr(Cluster, "_json", answer)
    cluster = Cluster(host="https://here", namespace="team-a", _client=None)
    cluster.get("finetuneschedule", "quarterly")
    cluster.patch("finetuneschedule", "quarterly", {"spec": {"suspend": True}})
    group = "/apis/finetune.dev/v1alpha1"
    path = f"{group}/namespaces/team-a/finetuneschedules/quarterly"
    assert sent == [
        ("GET", path, None),
        ("PATCH", path, {"spec": {"suspend": True}}),
    ]
