"""Jobs that are deleted and applied again: nothing trains twice, no row is sealed anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.processes.stages import Workbench, merge

Make = Callable[..., Workbench]
LOOKS = {"evaluation": {"looks": "Correct", "minPrompts": 1}}


@pytest.fixture(scope="module")
def published(bench_of_module: Make) -> Workbench:
    """The run of a FineTuneJob of a cluster that has published version 1."""
    bench = bench_of_module(uid="first")
    assert bench.run_to("prepare", "train", "evaluate").result["version"] == 1
    return bench


def applied_again(bench: Workbench, change: dict[str, Any] | None = None) -> Workbench:
    """Return the same job with another UID and a work folder of its own."""
    return replace(
        bench,
        uid="second",
        change=merge(bench.change, change or {}),
        env={"FINETUNE_WORK_DIR": str(bench.folder / "work-2")},
    )


def test_a_complete_run_of_the_same_content_is_taken_over(published: Workbench) -> None:
    again = applied_again(published)
    told = again.run_to("prepare").result
    assert told["takenOver"]["uid"] == "first"
    assert told["takenOver"]["isPublished"]
    adapter = published.run_folder / "adapter"
    assert told["takenOver"]["uri"] == f"file://{adapter}"
    assert told["takenOver"]["sha256"] in (adapter / "manifest.json").read_text()
    result = again.run_to("publish").result
    assert (result["version"], result["stage"]) == (1, "publish")
    assert [path.name for path in (again.output / "versions/default/tiny").iterdir()] == ["1"]
    # A pod of any stage that comes all the same finds the work done.
    assert again.run_to("train").result["reused"]
    assert again.run_to("evaluate").result["version"] == 1
    assert [path.name for path in (again.output / "looks").glob("*/*")] == ["1.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"hyperparameters": {"seed": 7}},
        {"dataset": {"split": {"seed": 7}}},
        {"goal": {"metric": "loss", "atMost": "100"}},
    ],
)
def test_a_job_of_other_content_trains(published: Workbench, change: dict[str, Any]) -> None:
    told = applied_again(published, change).run_to("prepare").result
    assert told.get("takenOver") is None


def test_a_candidate_that_missed_its_goal_is_not_trained_again(bench: Make) -> None:
    missed = bench({"goal": {"metric": "loss", "atMost": "0.000001"}}, uid="first")
    assert missed.run_to("prepare", "train", "evaluate").result["goalMet"] is False
    again = applied_again(missed)
    told = again.run_to("prepare").result["takenOver"]
    assert (told["uid"], told["isPublished"]) == ("first", False)
    result = again.run_to("publish").result
    assert (result["goalMet"], result.get("version")) == (False, None)
    assert not (again.output / "versions").exists()


def test_a_run_without_an_evaluation_is_not_taken_over(published: Workbench, bench: Make) -> None:
    begun = bench(uid="first")
    shutil.copytree(published.output, begun.output)
    shutil.rmtree(begun.run_folder / "evaluation")
    assert applied_again(begun).run_to("prepare").result.get("takenOver") is None


# ---- rows that a schedule sealed ----------------------------------------------------------------


@pytest.fixture(scope="module")
def sealed(bench_of_module: Make) -> Workbench:
    """The first evaluated job of a schedule."""
    labels = {"finetune.dev/schedule": "nightly"}
    metadata = {"name": "nightly-1", "labels": labels}
    bench = bench_of_module(LOOKS, uid="first", metadata=metadata)
    bench.run_to("prepare", "train", "evaluate")
    return bench


def anchor_file(bench: Workbench, schedule: str = "nightly") -> Path:
    return bench.output / "schedules/default" / schedule / "anchor.json"


def cycle_of(bench: Workbench, name: str, schedule: str = "nightly") -> Workbench:
    """Return the next job of a schedule that has forgotten its anchor."""
    labels = {"finetune.dev/schedule": schedule}
    return replace(applied_again(bench), metadata={"name": name, "labels": labels})


def test_the_first_evaluation_of_a_schedule_puts_its_rows_on_record(sealed: Workbench) -> None:
    dataset = json.loads((sealed.run_folder / "dataset.json").read_text())
    record = json.loads(anchor_file(sealed).read_text())
    assert (record["job"], record["digest"]) == ("nightly-1", dataset["digest"])


def test_a_schedule_without_its_status_holds_the_same_rows_out(sealed: Workbench) -> None:
    before = anchor_file(sealed).read_bytes()
    told = cycle_of(sealed, "nightly-2").run_to("prepare").result
    assert told["anchor"] == json.loads(before)
    report = json.loads((sealed.output / "datasets" / told["digest"] / "report.json").read_text())
    assert report["anchorDigest"]
    assert anchor_file(sealed).read_bytes() == before


def test_another_schedule_seals_rows_of_its_own(sealed: Workbench) -> None:
    assert cycle_of(sealed, "other-1", "other").run_to("prepare").result.get("anchor") is None


def test_the_job_that_sealed_the_rows_is_taken_over_like_any_other(sealed: Workbench) -> None:
    told = applied_again(sealed).run_to("prepare").result
    assert (told["takenOver"]["uid"], told.get("anchor")) == ("first", None)


def test_nothing_is_sealed_anew_over_a_damaged_record(sealed: Workbench, bench: Make) -> None:
    damaged = cycle_of(sealed, "nightly-2")
    damaged.folder = bench().folder
    shutil.copytree(sealed.output, damaged.output)
    anchor_file(damaged).write_text("{}")
    ended = damaged.run("prepare")
    assert ended.exit_code == 73
    assert ended.termination["reason"] == "AnchorUnreadable"
