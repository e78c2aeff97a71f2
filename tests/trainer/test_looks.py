"""The verdict says how often candidates were held against the same held-out side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.processes.stages import Workbench

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
