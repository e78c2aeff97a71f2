"""Asking a tuned model: which adapter, which base, and what if the base is not where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.models.tiny_models import make_model
from kit.processes.cli import Cli, Finished
from kit.processes.stages import Workbench


def ask(folder: Path, uri: str, *options: str) -> Finished:
    folder.mkdir(exist_ok=True)
    cli = Cli(folder, use_fake_trainer=False)
    return cli("chat", uri, "-p", "What colour is the thing?", "--max-new-tokens", "4", *options)


@pytest.fixture(scope="module")
def moved(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows: Path
) -> tuple[str, Path, Path]:
    """An adapter whose base is gone from where it was: adapter, old place, new place."""
    folder = tmp_path_factory.mktemp("moved")
    old, new = folder / "old", folder / "new"
    shutil.copytree(tiny_model, old)
    change = {"hyperparameters": {"maxSteps": 1}}
    workbench = Workbench(folder=folder / "run", model=old, data=rows, change=change)
    workbench.run_to("prepare", "train")
    old.rename(new)
    return f"file://{workbench.run_folder}/adapter", old, new


def test_version_leads_to_its_adapter_and_that_to_its_base(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench, _ = undisturbed
    done = ask(
        tmp_path,
        f"file://{workbench.output}/versions/default/tiny/1/manifest.json",
        *("-o", "json"),
    )
    assert done.code == 0, done.err
    (answer,) = map(json.loads, done.out.splitlines())
    assert answer["prompt"] == "What colour is the thing?"
    assert isinstance(answer["tuned"], str)


def test_adapter_away_from_its_run_still_knows_its_base(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench, _ = undisturbed
    copy = shutil.copytree(workbench.run_folder / "adapter", tmp_path / "downloaded")
    done = ask(tmp_path, str(copy), "--base")
    assert done.code == 0, done.err
    assert "tiny/llama with" in done.out
    assert "base:" in done.out


def test_each_prompt_is_answered_in_its_order(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench, _ = undisturbed
    adapter = f"file://{workbench.run_folder}/adapter"
    done = ask(tmp_path, adapter, "-p", "And the other one?", "--base")
    assert done.code == 0, done.err
    starts = [line.split(":")[0][:5] for line in done.out.splitlines() if line[:1] in ">bt"]
    asked = [line for line in done.out.splitlines() if line.startswith("> ")]
    assert asked == ["> What colour is the thing?", "> And the other one?"]
    assert [start for start in starts if start in ("base", "tuned")] == 2 * ["base", "tuned"]


def test_questions_are_read_line_by_line(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench, _ = undisturbed
    adapter = f"file://{workbench.run_folder}/adapter"
    cli = Cli(tmp_path, use_fake_trainer=False)
    done = cli("chat", adapter, "--max-new-tokens", "2", "-o", "json", stdin="one\n\ntwo\n")
    assert [json.loads(line)["prompt"] for line in done.out.splitlines()] == ["one", "two"]
    first, *others = done.err.splitlines()
    assert first == f"loading the model of {adapter}"
    assert len(others) == 1


def test_code_of_a_base_is_run_only_when_asked_for(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench, _ = undisturbed
    copy = shutil.copytree(workbench.run_folder / "adapter", tmp_path / "downloaded")
    for name in ("run.json", "manifest.json"):
        body = json.loads((copy / name).read_text())
        if name == "run.json":
            body["trustRemoteCode"] = True
        else:
            entry = next(file for file in body["files"] if file["path"] == "run.json")
            data = (copy / "run.json").read_bytes()
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (copy / name).write_text(json.dumps(body))
    refused = ask(tmp_path, str(copy))
    assert refused.code == 64
    assert "say --trust-remote-code" in refused.err
    done = ask(tmp_path, str(copy), "--trust-remote-code")
    assert done.code == 0, done.err


def test_moved_base_is_told_with_the_remedy(moved: tuple[str, Path, Path], tmp_path: Path) -> None:
    adapter, old, _ = moved
    done = ask(tmp_path, adapter)
    assert done.code == 64
    assert f"There is no model folder {old}" in done.err
    assert "name the place: --base-model URI" in done.err
    assert "Traceback" not in done.err


def test_base_named_at_its_new_place_is_recognised(
    moved: tuple[str, Path, Path], tmp_path: Path
) -> None:
    adapter, _, new = moved
    done = ask(tmp_path, adapter, "--base-model", f"file://{new}")
    assert done.code == 0, done.err
    assert "answers are only the run's" not in done.out


def test_another_base_is_used_and_told(moved: tuple[str, Path, Path], tmp_path: Path) -> None:
    adapter, _, _ = moved
    other = make_model(tmp_path / "other", seed=1)
    done = ask(tmp_path, adapter, "--base-model", f"file://{other}")
    assert done.code == 0, done.err
    assert "answers are only the run's" in " ".join(done.out.split())


def test_folder_that_is_no_adapter_is_told(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench, _ = undisturbed
    done = ask(tmp_path, f"file://{workbench.run_folder}/evaluation")
    assert done.code == 64
    assert "has no run.json" in done.err
