"""The runner's retries, with time that does not pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.messages.messages import parse_job
from finetune_api.protocol.trainer import RAW_COPIES, Event, Stage, resolve_job
from finetune_cli.cluster.follow import readable
from finetune_cli.local.job import LocalRun
from finetune_cli.local.runner import Runner, RunOutcome
from finetune_cli.views.display import PlainDisplay, duration_text, progress_text
from kit.cases.spec_cases import minimal_job
from kit.processes.cli import FAKE_TRAINER, REPOSITORY


@pytest.fixture
def attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    roots = [FAKE_TRAINER, REPOSITORY / "operator"]
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, roots)))

    def run(script: str) -> tuple[RunOutcome, list[float], list[str]]:
        monkeypatch.setenv("FAKE_TRAINER", script)
        job = resolve_job(parse_job(minimal_job()), namespace="default", uid="u")
        pauses: list[float] = []
        lines: list[str] = []
        runner = Runner(
            LocalRun(job=job, work_dir=tmp_path / "work"),
            PlainDisplay(lines.append),
            sleep=pauses.append,
        )
        return runner.run(), pauses, lines

    return run


def test_retryable_failure_is_tried_again_with_growing_pauses(attempts) -> None:
    outcome, pauses, lines = attempts('{"train": ["fail:75", "fail:75", "ok"]}')
    assert outcome.exit_code == 0
    assert pauses == [5.0, 10.0]
    assert "train: told to fail with 75; trying again in 5 s" in lines


def test_retries_end_after_three(attempts) -> None:
    outcome, pauses, _ = attempts('{"prepare": ["fail:75"]}')
    assert outcome.exit_code == 75
    assert pauses == [5.0, 10.0, 20.0]
    assert outcome.failed is not None
    assert outcome.failed.stage is Stage.PREPARE
    assert outcome.results == {}


@pytest.mark.slow
@pytest.mark.parametrize("code", [76, 77])
def test_training_that_hung_or_ran_out_of_memory_is_tried_again(attempts, code: int) -> None:
    outcome, pauses, _ = attempts(f'{{"train": ["fail:{code}", "ok"]}}')
    assert (outcome.exit_code, pauses) == (0, [5.0])


@pytest.mark.parametrize("code", [73, 77])
def test_other_failures_are_not_tried_again(attempts, code: int) -> None:
    outcome, pauses, _ = attempts(f'{{"evaluate": ["fail:{code}"]}}')
    assert outcome.exit_code == code
    assert pauses == []
    assert set(outcome.results) == {Stage.PREPARE, Stage.TRAIN}


@pytest.mark.parametrize("end", ["kill", "ok"])
def test_raw_copies_do_not_outlast_a_run_however_it_ends(attempts, tmp_path: Path, end) -> None:
    copy = tmp_path / "work" / RAW_COPIES / "sources" / "rows.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_text("{}")
    outcome, _, _ = attempts(f'{{"prepare": ["{end}"]}}')
    assert (outcome.failed is None) is (end == "ok")
    assert not copy.parent.parent.exists()


def test_the_folder_of_a_run_is_private(attempts, tmp_path: Path) -> None:
    attempts("{}")
    assert (tmp_path / "work").stat().st_mode & 0o777 == 0o700


def test_plain_display_thins_out_progress() -> None:
    lines: list[str] = []
    now = [0.0]
    display = PlainDisplay(lines.append, clock=lambda: now[0])
    display.start_stage(Stage.TRAIN)
    for step in range(1, 101):
        now[0] += 1
        display.show_event(Event(event="progress", stage=Stage.TRAIN, step=step, total_steps=100))
    assert len(lines) == 12
    assert lines[-1] == "train: step 100/100"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_progress_shows_what_is_known() -> None:
    event = Event(
        event="progress",
        stage=Stage.TRAIN,
        step=3,
        total_steps=9,
        eta_seconds=75,
        metrics={"loss": 1.23456, "tokens_per_second": 1234.5, "grad_norm": 1.0},
    )
    assert progress_text(event) == "step 3/9, loss 1.235, 1,234 tokens/s, 1 min 15 s left"


@pytest.mark.parametrize(
    ("stage", "counted", "text"),
    [
        (Stage.EVALUATE, {"step": 38, "total_steps": 76, "unit": "answers"}, "38 of 76 answers"),
        (
            Stage.PREPARE,
            {"step": 20_000, "total_steps": 31_234, "unit": "rows", "message": "reading"},
            "reading: 20,000 of 31,234 rows",
        ),
        (Stage.PREPARE, {"step": 20_000, "unit": "rows"}, "20,000 rows"),
        (Stage.TRAIN, {"step": 3, "total_steps": 9}, "step 3/9"),
    ],
)
def test_what_is_counted_is_told_with_its_noun(stage: Stage, counted: dict, text: str) -> None:
    event = Event(event="progress", stage=stage, **counted)
    lines: list[str] = []
    display = PlainDisplay(lines.append)
    display.start_stage(stage)
    display.show_event(event)
    assert lines[1:] == [f"{stage}: {text}"]
    assert readable(event.model_dump_json(by_alias=True), stage) == f"{stage}: {text}"
