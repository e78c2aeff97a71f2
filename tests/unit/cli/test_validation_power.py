"""`finetune validate` says how often a good model meets the goal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_cli.files.documents import to_yaml
from finetune_cli.local import validation
from finetune_cli.local.validation import judge_file
from kit.cases.spec_cases import changed, minimal_job


def write_job(folder: Path, **goal: str) -> str:
    rows = [
        {"prompt": f"question {i} about thing {i * 7}", "completion": ["yes", "no"][i % 2]}
        for i in range(400)
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    change: dict[str, Any] = {
        "spec.goal": goal,
        "spec.dataset.sources": [{"uri": f"file://{data}"}],
        "spec.output.uri": f"file://{folder}/out",
    }
    file = folder / "job.yaml"
    file.write_text(to_yaml(changed(minimal_job(), change)))
    return str(file)


def test_the_most_prompts_are_taken_where_there_is_no_data(tmp_path: Path) -> None:
    file = write_job(tmp_path, metric="exactMatch", atLeast="0.80")
    (verdict,) = judge_file(file)
    assert verdict.is_valid
    assert "with 500 independent prompts" in verdict.lines[1]


def test_nothing_is_told_where_the_trainer_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "has_modules", lambda _: False)
    (verdict,) = judge_file(write_job(tmp_path, metric="exactMatch", atLeast="0.80"))
    assert len(verdict.lines) == 1


@pytest.mark.slow
def test_the_prompts_and_the_best_constant_of_the_data_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = write_job(tmp_path, metric="exactMatch", atLeast="0.80")
    (verdict,) = judge_file(file, with_data=True)
    assert verdict.is_valid, verdict.lines
    assert "goal: with 80 independent prompts" in verdict.lines[-1]
    assert "constant answer (truly at 0.5" in verdict.lines[-1]
    assert verdict.lines[-1].endswith("161 prompts make it 90 %")
