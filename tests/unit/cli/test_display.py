"""What a person sees while a job runs, and the table at its end."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from finetune_api.messages.messages import parse_job
from finetune_api.protocol.evaluation_result import EvaluateResult, Score
from finetune_api.protocol.stage_results import TrainResult
from finetune_api.protocol.trainer import Event, Stage, resolve_job
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_cli.local.job import LocalRun
from finetune_cli.local.runner import RunOutcome
from finetune_cli.reports.summary import goal_text, print_summary
from finetune_cli.views.display import LiveDisplay, PlainDisplay, make_display
from kit.cases.spec_cases import changed, minimal_job
from kit.reports.evaluation_pages import REMARKED, REMARKS


def console(*, is_terminal: bool) -> tuple[Console, StringIO]:
    out = StringIO()
    return Console(file=out, force_terminal=is_terminal, width=120, color_system=None), out


def test_terminal_gets_bars_and_pipes_get_lines() -> None:
    live = make_display(console(is_terminal=True)[0])
    assert isinstance(live, LiveDisplay)
    live.close()
    assert isinstance(make_display(console(is_terminal=False)[0]), PlainDisplay)


def test_live_display_shows_every_stage_and_message() -> None:
    screen, out = console(is_terminal=True)
    display = make_display(screen)
    display.note("no GPU on this machine")
    display.start_stage(Stage.PREPARE)
    display.show_event(Event(event="message", stage=Stage.PREPARE, message="read [a] file"))
    display.end_stage(Stage.PREPARE, is_ok=True, summary="480 rows, 2 s")
    display.start_stage(Stage.TRAIN)
    display.show_event(
        Event(event="progress", stage=Stage.TRAIN, step=30, total_steps=60, metrics={"loss": 0.5})
    )
    display.end_stage(Stage.TRAIN, is_ok=False, summary="exit code 75 after 9 s")
    display.start_stage(Stage.TRAIN)
    display.end_stage(Stage.TRAIN, is_ok=True, summary="60 steps, 20 s")
    display.close()
    text = out.getvalue()
    for part in ("no GPU", "read [a] file", "prepare ", "480 rows, 2 s", "60 steps"):
        assert part in text


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        (Goal(metric="exactMatch", at_least="0.8", over_base="0.3"), ">= 0.8, +0.3"),
        (Goal(metric="loss", at_most="1.2", over_base="0.1"), "<= 1.2, -0.1"),
        (Goal(metric="rougeL", over_base="0.2"), "+0.2"),
    ],
)
def test_goal_reads_in_few_signs(goal: Goal, text: str) -> None:
    assert goal_text(goal) == text


def make_outcome(body: dict[str, Any]) -> RunOutcome:
    job = resolve_job(parse_job(body), namespace="default", uid="u")
    return RunOutcome(
        run=LocalRun(job=job, work_dir=Path("/nowhere")),
        results={
            Stage.TRAIN: TrainResult(
                uri="s3://models/runs/default/example/u/adapter",
                sha256="ab" * 32,
                num_bytes=1,
                manifest_sha256="cd",
                step=1,
            ),
            Stage.EVALUATE: EvaluateResult(
                scores=[Score(name="loss", base="2.5000", tuned="1.2000")],
                num_samples=5,
                report_uri="s3://models/evaluation/report.json",
                version=1,
                manifest_uri="s3://models/versions/default/example/1/manifest.json",
            ),
        },
    )


def test_summary_survives_a_narrow_window_and_no_goal() -> None:
    outcome = make_outcome(changed(minimal_job(), {"spec.output.uri": "s3://models"}))
    out = StringIO()
    print_summary(outcome, Console(file=out, width=60, color_system=None))
    text = out.getvalue()
    assert "-1.3000" in text
    assert "goal met" not in text
    assert "s3://models/runs/default/example/u/adapter" in text.splitlines()[-1]


@pytest.mark.parametrize(("kind", "has_merged"), [("LoRA", True), ("Full", False)])
def test_summary_names_the_report_for_people_and_the_merged_model(
    kind: str, has_merged: bool
) -> None:
    body = changed(
        minimal_job(),
        {"spec.output.formats": ["Adapter", "Merged"], "spec.method": {"adapter": {"type": kind}}},
    )
    out = StringIO()
    print_summary(make_outcome(body), Console(file=out, width=100, color_system=None))
    lines = out.getvalue().splitlines()
    assert "report   s3://models/evaluation/report.html" in lines
    assert ("merged   s3://models/runs/default/example/u/merged" in lines) is has_merged


def test_summary_tells_what_to_know_beside_the_verdict() -> None:
    outcome = make_outcome(minimal_job())
    outcome.results[Stage.EVALUATE] = REMARKED
    out = StringIO()
    print_summary(outcome, Console(file=out, width=200, color_system=None))
    assert all(words.rstrip(".") in out.getvalue() for words in REMARKS)
