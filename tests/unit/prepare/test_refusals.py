"""A division that the job has no use for is refused with what was asked and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.messages.messages import parse_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_trainer.data.asking import most_asked
from finetune_trainer.data.held_out import gather_held_out
from finetune_trainer.errors import DataError
from finetune_trainer.evaluate.questions import gather_questions, with_prompt
from finetune_trainer.prepare.refusals.refusals import require_prompts, require_validation
from finetune_trainer.verdict.sample_size import count_questions
from kit.cases.spec_cases import changed, minimal_job

STOPS_EARLY = {"spec.checkpoint.earlyStopping": {"patience": 3}}
SCORES = {"spec.evaluation.validation": {"metric": "exactMatch"}}


def look(folder: Path, change: dict[str, Any], rows: str) -> None:
    (folder / "validation.jsonl").write_text(rows)
    require_validation(parse_job(changed(minimal_job(), change)).spec, folder)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (STOPS_EARLY, "checkpoint.earlyStopping"),
        (SCORES, "evaluation.validation"),
        (STOPS_EARLY | SCORES, "checkpoint.earlyStopping and evaluation.validation"),
    ],
)
def test_what_needs_validation_rows_is_refused_where_all_were_left_out(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(DataError) as caught:
        look(tmp_path, change, "")
    assert caught.value.reason == "NoValidationRows"
    assert caught.value.message.startswith(f"{field}: no validation row is left")
    assert "side: Validation" in caught.value.message
    assert "validationPercent" not in caught.value.message  # more of no rows are none


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (STOPS_EARLY, "{}\n"),
        (SCORES, "{}\n"),
        ({}, ""),
    ],
    ids=["stops early", "scores", "asks for none"],
)
def test_what_has_validation_rows_or_needs_none_goes_on(
    tmp_path: Path, change: dict[str, Any], rows: str
) -> None:
    look(tmp_path, change, rows)


EXACT = {"metric": "exactMatch", "atLeast": "0.5"}
SEED = 13
"""Of the draw, by default."""
LOSS = {"metric": "loss", "atMost": "2"}


def pairs(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"p{i}", "completion": f"answer {i}", **more} for i in range(count)]


def texts(count: int) -> list[dict[str, Any]]:
    return [{"text": f"text {i}"} for i in range(count)]


def spec_with(goal: dict[str, str] | None, **evaluation: Any) -> FineTuneJobSpec:
    change: dict[str, Any] = {
        "spec.evaluation": evaluation,
        **({"spec.goal": goal} if goal else {}),
    }
    return FineTuneJob.from_wire(changed(minimal_job(), change)).spec


def refusal(goal: dict[str, str] | None, rows: list[dict[str, Any]], **evaluation: Any) -> str:
    spec = spec_with(goal, **evaluation)
    side = gather_held_out(rows, seed=spec.dataset.split.seed)
    chosen = count_questions(spec, side)
    most = most_asked(spec.evaluation, None if chosen is None else chosen.number)
    try:
        require_prompts(spec, side, num_questions=most)
    except DataError as error:
        return f"{error.reason}: {error}"
    return ""


@pytest.mark.parametrize(
    ("goal", "rows", "words"),
    [
        (EXACT, pairs(30), ""),
        (EXACT, [], "the held-out side has 0 distinct prompt(s) in 0 row(s), and"),
        (EXACT, pairs(29), "29 distinct prompt(s) in 29 row(s), and evaluation.minPrompts asks"),
        (EXACT, pairs(30)[:1] * 60, "has 1 distinct prompt(s) in 60 row(s)"),
        (EXACT, [*pairs(30), *texts(9)], ""),
        (
            EXACT,
            [*pairs(6), *texts(24)],
            "6 distinct prompt(s) in 30 row(s), besides 24 distinct plain text(s), which "
            "goal.metric exactMatch does not score, and evaluation.minPrompts asks for 30",
        ),
        (
            {"metric": "rougeL", "overBase": "0"},
            [*pairs(6), *texts(24)],
            "goal.metric rougeL does not",
        ),
        (LOSS, [*pairs(6), *texts(24)], ""),
        (LOSS, [*pairs(6), *texts(23)], "has 29 distinct prompt(s) in 29 row(s), and"),
        (None, [*pairs(6), *texts(24)], ""),
        (
            None,
            [*pairs(20, label=True), *[{**row, "label": False} for row in pairs(40)[10:]]],
            "has 20 distinct prompt(s) in 50 row(s), besides 30 answer(s) with label false, which "
            "are no references, and",
        ),
    ],
)
def test_as_many_prompts_are_held_out_as_the_goal_scores(
    goal: dict[str, str] | None, rows: list[dict[str, Any]], words: str
) -> None:
    told = refusal(goal, rows)
    assert words in told
    assert told.startswith("TooFewHeldOutPrompts: ") is bool(words)
    assert "lower evaluation.minPrompts if you know what you accept" in told or not words


def test_prompts_that_are_held_out_and_not_drawn_are_none() -> None:
    rows = [*texts(900), *pairs(100)]
    told = refusal(EXACT, rows, maxSamples=100)
    assert told.startswith("TooFewHeldOutPrompts: of 1,000 held-out questions evaluation.maxSampl")
    least = int(told.partition("raise evaluation.maxSamples from 100 to ")[2].split(",")[0])
    drawn = {
        most: len(with_prompt(gather_questions(rows, max_questions=most, seed=SEED)))
        for most in (least - 1, least)
    }
    assert drawn == {least - 1: 29, least: 30}
    assert refusal(EXACT, rows, maxSamples=least) == ""
    assert refusal(EXACT, rows, maxSamples=least - 1) != ""
    assert refusal(LOSS, rows, maxSamples=100) == ""


def test_what_is_chosen_by_itself_has_enough_of_them() -> None:
    rows = [*texts(900), *pairs(600)]
    easy = {"metric": "exactMatch", "atLeast": "0.01"}
    assert refusal(easy, rows, maxSamples="auto", minPrompts=400) == ""
    assert refusal(easy, [], maxSamples="auto").startswith("TooFewHeldOutPrompts: ")
