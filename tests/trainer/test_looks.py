"""The verdict says how often candidates were held against the same held-out side."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.processes.stages import COLOURS, Workbench

LOSS = {"goal": {"metric": "loss", "atMost": "100"}}


def evaluate_again(
    trained: Workbench, folder: Path, change: dict[str, Any], *, looks: Path | None = None
) -> Workbench:
    """Fork a run before its evaluation, with the looks that another run has left."""
    workbench = trained.fork(folder, {**LOSS, **change})
    shutil.rmtree(workbench.run_folder / "evaluation", ignore_errors=True)
    shutil.rmtree(workbench.output / "looks", ignore_errors=True)
    if looks is not None:
        shutil.copytree(looks, workbench.output / "looks")
    return workbench


def test_another_goal_on_the_same_rows_is_a_second_look_and_is_told_everywhere(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    first = evaluate_again(undisturbed[0], tmp_path / "first", {})
    told = first.run_to("evaluate").result
    assert told["look"]["number"] == 1
    again = evaluate_again(undisturbed[0], tmp_path / "again", {}, looks=first.output / "looks")
    assert again.run_to("evaluate").result["look"]["number"] == 1
    change = {
        "goal": {"metric": "loss", "atMost": "99"},
        "evaluation": {"looks": "Correct"},
    }
    second = evaluate_again(
        undisturbed[0], tmp_path / "second", change, looks=first.output / "looks"
    )
    result = second.run_to("evaluate").result
    assert result["look"]["number"] == 2
    assert result["look"]["certainty"] == "0.99240092"
    assert "at 99.2401 % certainty" in result["goalMessage"]
    words = "This is the 2nd evaluation against this held-out side"
    folder = second.run_folder / "evaluation"
    assert json.loads((folder / "report.json").read_text())["result"]["look"]["number"] == 2
    for name in ("report.html", "README.md"):
        assert words in (folder / name).read_text()


@pytest.mark.parametrize("looks", ["Report", "Correct"])
def test_a_count_that_fails_is_told_or_fails(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path, looks: str
) -> None:
    workbench = evaluate_again(undisturbed[0], tmp_path / "run", {"evaluation": {"looks": looks}})
    (workbench.output / "looks").write_text("a file where a folder has to be")
    ended = workbench.run("evaluate")
    if looks == "Report":
        assert ended.exit_code == 0
        assert "number" not in ended.result["look"]
        assert "Nobody knows how many" in ended.result["look"]["message"]
    else:
        assert ended.exit_code != 0
        assert ended.termination["reason"] == "LocalIoError"


def write_distinct_rows(path: Path, num_rows: int) -> Path:
    """Write rows whose prompts are not near each other."""
    words = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(num_rows)]
    rows = [
        {"prompt": f"{word[:12]} {word[12:24]} {COLOURS[n % 4]}", "completion": COLOURS[n % 4]}
        for n, word in enumerate(words)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_second_cycle_looks_again_at_the_sealed_rows_and_scores_new_ones_apart(
    tiny_model: Path, tmp_path: Path
) -> None:
    change: dict[str, Any] = {
        **LOSS,
        "evaluation": {"looks": "Correct"},
        "hyperparameters": {"maxSteps": 3},
    }
    data = write_distinct_rows(tmp_path / "first.jsonl", 48)
    first = Workbench(folder=tmp_path, model=tiny_model, data=data, change=change)
    prepared = first.run_to("prepare").result
    first.run_to("train")
    assert first.run_to("evaluate").result["look"]["number"] == 1
    anchor = {"digest": prepared["digest"], "testSha256": prepared["testSha256"]}
    second = Workbench(
        folder=tmp_path,
        model=tiny_model,
        data=write_distinct_rows(tmp_path / "second.jsonl", 80),
        change={**change, "dataset": {"anchor": anchor}},
    )
    held_out = second.run_to("prepare").result["rows"]["test"]
    second.run_to("train")
    look = second.run_to("evaluate").result["look"]
    num_sealed = prepared["rows"]["test"]
    assert look["number"] == 2
    assert f"the {num_sealed} sealed of {held_out} held-out rows" in look["message"]
    assert look["certainty"] == "0.99240092"
    report = json.loads((second.run_folder / "evaluation" / "report.json").read_text())
    parts = {part["name"]: part["num_questions"] for part in report["parts"]}
    assert parts["sealed (dataset.anchor)"] == num_sealed
    assert parts["new since it was sealed"] == held_out - num_sealed > 0
