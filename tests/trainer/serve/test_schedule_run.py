"""`finetune schedule run` with real stages: from corrections to the version that answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_cli.files.documents import to_yaml
from finetune_cli.local.serving.monitoring import note_active
from finetune_cli.local.serving.processes import endpoint_of
from finetune_cli.local.serving.version import find_version
from kit.processes.cli import Cli, Finished
from kit.processes.stages import Workbench
from kit.serving.traffic import Recorded

pytestmark = pytest.mark.timeout(600)


def test_corrections_are_trained_approved_published_and_promoted(
    learned: Workbench, tmp_path: Path
) -> None:
    out = shutil.copytree(learned.output, tmp_path / "out")
    captured = tmp_path / "captured"
    recorded = Recorded(folder=captured, namespace="default", endpoint="tiny")
    for number in range(12):
        row = recorded.answer(f"What colour is the sky {number}?", "red", user=f"u{number}")
        recorded.say(row, correction="blue")
    serve(captured, f"file://{out}/versions/default/tiny/1")
    (tmp_path / "again.yaml").write_text(to_yaml(schedule_of(learned, out)))
    cli = Cli(tmp_path, use_fake_trainer=False)
    cli.environment["OMP_NUM_THREADS"] = "1"

    def run() -> dict[str, Any]:
        return json.loads(good(cli("schedule", "run", "again.yaml", "--capture", "captured",
                                   "-o", "json")).out)["status"]  # fmt: skip

    active = run()["active"]
    assert (active["trigger"], active["waitsFor"]) == ("NewFeedback", "Job")
    job = f"captured/schedules/{active['job']}.yaml"
    good(cli("publish", job, "--override", "--reason", "looked at", "--yes"))
    status = run()
    assert (status["active"]["version"], status["active"]["waitsFor"]) == (2, "Traffic")
    assert status["anchor"]["job"] == active["job"]
    data = out / "datasets" / status["active"]["dataDigest"]
    (learned_from,) = data.rglob("responses.jsonl")
    ids = {json.loads(line)["responseId"] for line in learned_from.read_text().splitlines()}
    assert ids == {row.id for row in recorded.answers}
    serve(captured, f"file://{out}/versions/default/tiny/2")
    (ended,) = run()["history"]
    assert (ended["outcome"], ended["version"]) == ("Promoted", 2)


def serve(captured: Path, version: str) -> None:
    """Leave what ``finetune serve --capture`` leaves once a version answers."""
    note_active(captured, endpoint_of(find_version(version), is_verified=True, capture=captured))


def good(done: Finished) -> Finished:
    assert done.code == 0, done.err
    return done


def schedule_of(learned: Workbench, out: Path) -> dict[str, Any]:
    spec = learned.spec()
    spec["hyperparameters"] |= {"maxSteps": 2}
    spec["dataset"]["sources"] += [{"uri": "traffic://tiny", "feedback": ["Corrections"]}]
    spec["output"] = {"uri": f"file://{out}"}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneSchedule",
        "metadata": {"name": "again"},
        "spec": {
            "endpointRef": {"name": "tiny"},
            "triggers": {"newFeedback": 12},
            "jobTemplate": {"spec": spec},
        },
    }
