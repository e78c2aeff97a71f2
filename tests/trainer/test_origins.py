"""Held-out prompts that ``initFrom`` was trained on are counted in storage, and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data.rows import RowFile, Side
from kit.processes.stages import Workbench, merge, write_rows

Bench = Callable[..., Workbench]
Run = tuple[Workbench, dict[str, Any]]
STILL = {"hyperparameters": {"maxSteps": 1, "learningRate": "1e-12", "warmupRatio": "0"}}
OTHER_SPLIT = {"dataset": {"split": {"seed": 7}}}
REPORTED = {"evaluation": {"looks": "Report"}}


def adapter_of(run: Workbench) -> str:
    return f"file://{run.run_folder / 'adapter'}"


def begun_from(bench: Bench, uri: str, *changes: dict[str, Any], **settings: Any) -> Workbench:
    change: dict[str, Any] = {**STILL, "initFrom": {"uri": uri}}
    for each in changes:
        change = merge(change, each)
    return bench(change, **settings)


def told_of(run: Workbench) -> str:
    messages = run.run_to("prepare").messages.splitlines()
    return next(words for words in messages if "held-out prompts were learned" in words)


def prompts(run: Workbench, side: Side) -> set[str]:
    pointer = json.loads((run.run_folder / "dataset.json").read_text())
    path = run.output / pointer["prefix"] / f"{side}.jsonl"
    rows = RowFile(path=path, num_rows=pointer["rows"][side])
    return {json.dumps(row.get("prompt") or row["messages"][:-1]) for row in rows}


@pytest.fixture(scope="module")
def divided_anew(bench_of_module: Bench, undisturbed: Run) -> Run:
    """A run of all stages that begins from another one and holds out rows that it learned."""
    uri = adapter_of(undisturbed[0])
    run = begun_from(bench_of_module, uri, OTHER_SPLIT, REPORTED)
    run.run_to("prepare", "train")
    return run, run.run_to("evaluate").result


@pytest.mark.parametrize("kind", ["adapter", "version"])
def test_held_out_prompts_that_the_origin_learned_are_refused_with_count_and_remedy(
    bench: Bench, undisturbed: Run, divided_anew: Run, kind: str
) -> None:
    first = undisturbed[0]
    version = f"file://{first.output / 'versions' / 'default' / 'tiny' / '1'}"
    uri = adapter_of(first) if kind == "adapter" else version
    ended = begun_from(bench, uri, OTHER_SPLIT).run("prepare")
    assert (ended.exit_code, ended.failure["reason"]) == (65, "HeldOutRowsSeen"), ended.messages
    held_out = prompts(divided_anew[0], Side.TEST)
    seen = held_out & prompts(first, Side.TRAIN)
    pointer = json.loads((first.run_folder / "dataset.json").read_text())
    for words in (
        f"{len(seen)} of {len(held_out)} held-out prompts",
        f"leave out initFrom ({uri})",
        f"dataset.anchor: {{digest: {pointer['digest']}, testSha256: ",
    ):
        assert words in ended.failure["message"]


def test_where_looks_are_only_reported_the_count_is_told_everywhere(
    undisturbed: Run, divided_anew: Run
) -> None:
    run, result = divided_anew
    seen = prompts(run, Side.TEST) & prompts(undisturbed[0], Side.TRAIN)
    assert result["origins"].startswith(f"{len(seen)} of {len(prompts(run, Side.TEST))} held-out")
    for name in ("report.html", "README.md"):
        assert result["origins"] in (run.run_folder / "evaluation" / name).read_text()


def test_what_the_origin_began_from_counts_too(bench: Bench, divided_anew: Run) -> None:
    ended = begun_from(bench, adapter_of(divided_anew[0]), OTHER_SPLIT).run("prepare")
    assert ended.failure["reason"] == "HeldOutRowsSeen"


def test_a_checkpoint_names_its_origin(bench: Bench, undisturbed: Run) -> None:
    kept = {"checkpoint": {"everySteps": 1, "afterTraining": "Keep"}}
    run = begun_from(bench, adapter_of(undisturbed[0]), OTHER_SPLIT, REPORTED, kept)
    run.run_to("prepare", "train")
    uri = f"file://{run.run_folder / 'checkpoints' / 'step-1'}"
    ended = begun_from(bench, uri, OTHER_SPLIT).run("prepare")
    assert ended.failure["reason"] == "HeldOutRowsSeen"


def test_a_job_that_divides_as_its_origin_did_goes_on(
    bench: Bench, undisturbed: Run, tmp_path: Path
) -> None:
    first = undisturbed[0]
    uri = adapter_of(first)
    assert told_of(begun_from(bench, uri)).startswith("0 of ")
    # A schedule's next cycle: more rows, and the sealed ones are held out again.
    pointer = json.loads((first.run_folder / "dataset.json").read_text())
    manifest = json.loads((first.output / pointer["prefix"] / "manifest.json").read_text())
    sha256 = next(f["sha256"] for f in manifest["files"] if f["path"] == "test.jsonl")
    anchor = {"digest": pointer["digest"], "testSha256": sha256}
    grown = begun_from(
        bench,
        uri,
        {"dataset": {"anchor": anchor}},
        data=write_rows(tmp_path / "grown.jsonl", 96),
    )
    shutil.copytree(first.output / "datasets", grown.output / "datasets")
    assert told_of(grown).startswith("0 of ")
    assert prompts(grown, Side.TEST) > prompts(first, Side.TEST)


@pytest.mark.parametrize("damage", ["gone", "circle"])
def test_an_origin_that_cannot_be_read_is_told_and_not_refused(
    bench: Bench, undisturbed: Run, tmp_path: Path, damage: str
) -> None:
    run = undisturbed[0].fork(tmp_path / "origin")
    uri = adapter_of(run)
    if damage == "gone":
        shutil.rmtree(run.output / "datasets")
        change = OTHER_SPLIT
    else:
        record = run.run_folder / "adapter" / "run.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "initFrom": {"uri": uri}}))
        manifest = run.run_folder / "adapter" / "manifest.json"
        manifest.write_text(_with_file(json.loads(manifest.read_text()), record))
        change = {}
    assert "not all of that data could be read" in told_of(begun_from(bench, uri, change))


def _with_file(manifest: dict[str, Any], path: Path) -> str:
    from finetune_trainer.storage import hash_file

    size, sha256 = hash_file(path)
    for file in manifest["files"]:
        if file["path"] == path.name:
            file |= {"bytes": size, "sha256": sha256}
    return json.dumps(manifest)
