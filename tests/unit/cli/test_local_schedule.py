"""`finetune schedule run`: triggers over a folder of captured answers, and a cycle of stages."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.errors import CliError
from finetune_cli.local.lock import locked_state
from finetune_cli.local.serving import monitoring, processes
from finetune_cli.local.serving.monitoring import note_active
from finetune_cli.local.serving.version import PublishedVersion
from finetune_trainer.storage import StorageAccess
from kit.builders.schedules import GATE
from kit.cases.schedule_cases import minimal_schedule
from kit.processes.cli import FAKE_TRAINER, REPOSITORY
from kit.serving.monitored import MonitoredVersion

TRIGGERS = {"newFeedback": 2, "newRows": 100}


class Machine:
    """A folder with a schedule, captured answers of version 2, and a scripted trainer."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.world = MonitoredVersion(folder)
        self.capture = self.world.output
        self.state = self.capture / "schedules" / "again.json"
        roots = [FAKE_TRAINER, REPOSITORY / "operator"]
        monkeypatch.setenv("PYTHONPATH", ":".join(map(str, roots)))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        self.serve(2)
        self.write(TRIGGERS)

    def serve(self, version: int) -> None:
        """Leave what ``finetune serve --capture`` leaves once a version answers."""
        active = {**self.world.task(0).active.to_wire(), "version": version}
        metadata = {"name": "copy", "namespace": "shop"}
        body = {"metadata": metadata, "spec": {"jobRef": {"name": "copy"}},
                "status": {"active": active}}  # fmt: skip
        (self.capture / monitoring.ACTIVE).write_text(json.dumps(body))

    def write(self, triggers: dict[str, Any], **spec: Any) -> None:
        body = minimal_schedule("again")
        template = body["spec"]["jobTemplate"]["spec"]
        template |= {
            "dataset": {"sources": [{"uri": "file://./january.jsonl"},
                                    {"uri": "traffic://copy", "feedback": ["Corrections"]}]},
            "output": {"uri": "file://./out"},
            "resources": {"gpusPerNode": 0},
            "evaluation": {"gates": [GATE]},
        }  # fmt: skip
        body["spec"] |= {"endpointRef": {"name": "copy"}, "promote": "Auto", **spec}
        body["spec"]["triggers"] = triggers
        (self.folder / "again.yaml").write_text(yaml.safe_dump(body))

    def script(self, **stages: Sequence[str]) -> None:
        self.monkeypatch.setenv("FAKE_TRAINER", json.dumps(stages))

    def run(self, *options: str) -> tuple[int, str]:
        """Run the command; the text is its output, or the error that it ended with."""
        words = ["schedule", "run", str(self.folder / "again.yaml"), "--capture", str(self.capture)]
        done = CliRunner().invoke(app, [*words, *options])
        if isinstance(done.exception, CliError):
            return done.exception.exit_code, done.exception.message
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.state.read_text())["status"]
        return found

    def rate(self, num: int) -> None:
        for number in range(num):
            self.world.rate(0, number, "down")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_look_without_cause_says_what_it_waits_for(machine: Machine) -> None:
    machine.rate(1)
    code, text = machine.run()
    assert code == 0, text
    assert "It waits for 100 new answers or 2 new corrections or ratings." in text
    assert machine.status["reason"] == "WaitingForTrigger"
    assert "active" not in machine.status


def test_new_feedback_trains_publishes_and_waits_for_the_version_to_be_served(
    machine: Machine,
) -> None:
    machine.rate(2)
    code, text = machine.run()
    assert code == 0, text
    active = machine.status["active"]
    assert (active["trigger"], active["waitsFor"], active["version"]) == (
        "NewFeedback",
        "Traffic",
        3,
    )
    assert (active["dataDigest"], active["verdict"]) == ("d1", "GoalReached")
    assert f"versions/shop/copy/3 --capture {machine.capture}" in text
    code, text = machine.run()
    assert code == 0, text
    assert machine.status["active"] == active
    machine.serve(3)
    machine.run()
    (ended,) = machine.status["history"]
    assert (ended["job"], ended["outcome"]) == (active["job"], "Promoted")
    assert machine.status["reason"] == "WaitingForTrigger"


def test_a_version_that_is_not_what_was_evaluated_ends_its_cycle_and_the_other_answers(
    machine: Machine,
) -> None:
    machine.rate(2)
    machine.run()
    found = {
        "name": "shop.copy-v3",
        "state": "Failed",
        "reason": "AnswersDiffer",
        "message": "2 of 9",
    }
    machine.monkeypatch.setattr(processes, "_get", lambda _: {"adapters": [found]})
    version = PublishedVersion(
        root="", access=StorageAccess(), namespace="shop", job="copy", number=3, sha256="", run="",
        uid="", record={}, has_adapter=True,
    )  # fmt: skip
    ports = processes.Ports(front=1, front_report=1, agent=1, agent_report=1, engine=1)
    with pytest.raises(CliError, match="AnswersDiffer"):
        processes._wait_until_verified(version, ports, {}, print, machine.capture)
    note_active(machine.capture, json.loads((machine.capture / monitoring.ACTIVE).read_text()))
    assert machine.run()[0] == 0
    (ended,) = machine.status["history"]
    assert ended["outcome"] == "Refused"
    assert ended["message"] == "Version 2 answers. AnswersDiffer: 2 of 9"


def test_the_job_of_a_cycle_is_pinned_and_named_beside_the_state(machine: Machine) -> None:
    machine.rate(2)
    machine.run()
    active = machine.status["active"]
    job = yaml.safe_load((machine.state.parent / f"{active['job']}.yaml").read_text())
    january, traffic = job["spec"]["dataset"]["sources"]
    assert january["uri"] == f"file://{machine.folder}/january.jsonl"
    assert traffic["until"] == active["time"]
    assert job["spec"]["output"] == {
        "uri": f"file://{machine.folder}/out",
        "publishAs": "copy",
    }
    assert job["metadata"]["namespace"] == "shop"


def test_a_stopped_cycle_goes_on_as_the_same_job(machine: Machine) -> None:
    machine.rate(2)
    machine.script(train=["fail:79", "ok"])
    code, text = machine.run()
    assert code == 79, text
    first = machine.status["active"]
    assert "jobUid" not in first
    machine.rate(5)
    assert machine.run()[0] == 0
    assert {**machine.status["active"], "waitsFor": "Job"}.items() >= first.items()
    assert len(list((machine.folder / "cache/finetune/runs").iterdir())) == 1


def test_a_cycle_that_misses_its_goal_ends_and_its_feedback_does_not_count_again(
    machine: Machine,
) -> None:
    machine.rate(2)
    machine.script(evaluate=["missed"])
    assert machine.run()[0] == 1
    (ended,) = machine.status["history"]
    assert (ended["outcome"], ended["verdict"]) == ("NotPublished", "GoalNotMet")
    code, text = machine.run()
    assert (code, machine.status["reason"]) == (0, "Backoff"), text
    machine.write({"newFeedback": 2})  # an edit of the file ends the pause
    code, text = machine.run()
    assert (code, machine.status["reason"]) == (0, "WaitingForTrigger"), text


def test_bad_data_ends_a_cycle_and_a_lack_of_memory_does_not(machine: Machine) -> None:
    machine.rate(2)
    machine.script(evaluate=["fail:77"])
    assert machine.run()[0] == 77
    assert machine.status["active"]["waitsFor"] == "Job"
    machine.script(evaluate=["fail:65"])
    assert machine.run()[0] == 65
    (ended,) = machine.status["history"]
    assert (ended["outcome"], ended["verdict"]) == ("Failed", "Scripted")


def test_drift_that_the_monitor_has_found_begins_one_cycle(machine: Machine) -> None:
    machine.write({"drift": True})
    assert machine.run()[0] == 0
    assert "active" not in machine.status
    for hour in range(3):
        machine.world.capture(hour, answer="bad" if hour == 2 else "")
        assert machine.world.look(hour + 1).num_users == 100
    code, text = machine.run()
    assert code == 0, text
    assert machine.status["active"]["trigger"] == "Drift"
    assert re.search(r"because of drift of endpoint copy since [0-9T:-]+Z ", text)
    machine.serve(3)
    machine.run()
    assert [each["outcome"] for each in machine.status["history"]] == ["Promoted"]
    assert "active" not in machine.status


def test_approval_leaves_the_cycle_open_until_the_candidate_is_published(
    machine: Machine,
) -> None:
    machine.write(TRIGGERS, promote="Approval")
    machine.rate(2)
    machine.script(evaluate=["passed", "ok"])
    code, text = machine.run()
    assert (code, machine.status["active"]["waitsFor"]) == (0, "Job"), text
    assert f"finetune publish {machine.state.parent / machine.status['active']['job']}.yaml" in text
    assert machine.run()[0] == 0
    assert machine.status["active"]["waitsFor"] == "Traffic"


def test_a_second_command_on_one_state_is_refused(machine: Machine) -> None:
    machine.rate(2)
    with locked_state(machine.state):
        code, text = machine.run()
    assert (code, machine.state.exists()) == (64, False)
    assert "is running already" in text


def test_a_table_that_never_comes_fails_the_command(machine: Machine) -> None:
    machine.write({"cron": "0 0 30 2 *"})
    code, text = machine.run()
    assert (code, machine.status["reason"]) == (1, "InvalidSchedule"), text


def test_a_start_that_was_missed_is_made_up_for(machine: Machine) -> None:
    machine.write({"cron": "0 3 1 * *"})
    assert machine.run()[0] == 0
    body = json.loads(machine.state.read_text())
    body["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    machine.state.write_text(json.dumps(body))
    assert machine.run()[0] == 0
    assert machine.status["active"]["trigger"] == "Cron"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"endpointRef": {"name": "other"}}, "spec.endpointRef names shop/other"),
        ({"promote": "Sometimes"}, "promote"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_kept(
    machine: Machine, change: dict[str, Any], told: str
) -> None:
    machine.write(TRIGGERS, **change)
    code, text = machine.run()
    assert (code, machine.state.exists()) == (64, False)
    assert told in text


def test_a_folder_that_nothing_was_served_from_is_named(machine: Machine) -> None:
    (machine.capture / monitoring.ACTIVE).unlink()
    code, text = machine.run()
    assert (code, "finetune serve --capture" in text) == (64, True)
    elsewhere = machine.folder / "state.json"
    elsewhere.write_text("{")
    machine.serve(2)
    assert machine.run("--state", str(elsewhere))[0] == 64
    elsewhere.write_text(json.dumps({"metadata": {"name": "another"}}))
    assert "is of schedule another" in machine.run("--state", str(elsewhere))[1]


def test_the_object_can_be_printed_alone(machine: Machine) -> None:
    machine.rate(2)
    done = CliRunner().invoke(
        app,
        ["schedule", "run", str(machine.folder / "again.yaml"), "--capture", str(machine.capture),
         "-o", "json"],
    )  # fmt: skip
    assert json.loads(done.stdout)["status"] == machine.status
