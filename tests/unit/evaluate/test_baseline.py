"""The tuned model is compared with the best that the base came to, and which one is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import gather_questions
from finetune_trainer.evaluate.scores.measuring import gather_row_scores, score_all
from finetune_trainer.evaluate.scores.prompt_choice import best_of
from finetune_trainer.verdict.goal import check_goal
from kit.cases.spec_cases import changed, minimal_job

TRUTH = ["a", "b", "c"] * 20


def answers(texts: list[str], *, loss: float = 1.0, tokens: float = 1.0) -> Answers:
    size = len(texts)
    return Answers(texts=texts, nll_sums=np.full(size, loss), num_tokens=np.full(size, tokens))


def right_in(number: int) -> list[str]:
    return [label if place < number else "?" for place, label in enumerate(TRUTH)]


def make_job(goal: dict[str, str] | None, **evaluation: Any) -> ResolvedJob:
    change: dict[str, Any] = {"spec.evaluation": {"numBootstrapSamples": 200, **evaluation}}
    body = changed(minimal_job(), {**change, **({"spec.goal": goal} if goal else {})})
    return ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": body["spec"]}
    )


def compared(**sides: Answers) -> Comparison:
    rows = [
        {"prompt": f"p{n}", "completion": label, "rejected": "x"} for n, label in enumerate(TRUTH)
    ]
    questions = gather_questions(rows, max_questions=1000, seed=0)
    values = {"base": answers(right_in(0)), "tuned": answers(TRUTH), **sides}
    return Comparison(questions=questions, **values)


def test_over_base_is_over_the_best_that_the_base_came_to() -> None:
    goal = {"metric": "exactMatch", "overBase": "0.30"}
    job = make_job(goal)
    manners = compared(prompted=answers(right_in(50)), likelihood=answers(right_in(54)))
    scores, measured = score_all(job, manners)
    assert (scores[0].base, scores[0].baseline) == ("0.9000", "Likelihood")
    assert [(each.asked, each.value) for each in scores[0].baselines] == [
        ("AsIs", "0.0000"),
        ("Prompted", "0.8333"),
        ("Likelihood", "0.9000"),
    ]
    assert all(0 <= float(e.low) <= float(e.value) <= float(e.high) for e in scores[0].baselines)
    met, words = check_goal(job.spec.goal, measured["exactMatch"])
    assert met is False
    assert "MISSED +0.100 over base by likelihood 0.900 [" in words
    # The pairs are those with the answers that were chosen.
    rows = gather_row_scores(manners, measured)
    assert [row["exactMatch"] for row in rows] == [(1.0, 1.0)] * 54 + [(0.0, 1.0)] * 6
    met, words = check_goal(job.spec.goal, score_all(job, compared())[1]["exactMatch"])
    assert met is True, words


def test_each_metric_has_its_own_best() -> None:
    prompted = answers(right_in(30), loss=0.5)
    scores, _ = score_all(make_job(None), compared(prompted=prompted))
    found = {score.name: (score.base, score.baseline) for score in scores}
    assert found["exactMatch"] == ("0.5000", "Prompted")
    assert found["loss"] == ("0.5000", "Prompted")
    scores, _ = score_all(make_job(None), compared(prompted=answers(right_in(30), loss=2.0)))
    assert {score.name: score.baseline for score in scores}["loss"] == "AsIs"


def test_losses_compare_over_the_same_tokens_alone() -> None:
    prompted = answers(right_in(30), loss=0.1, tokens=2.0)
    scores, _ = score_all(make_job(None), compared(prompted=prompted))
    loss = next(score for score in scores if score.name == "loss")
    assert (loss.baseline, loss.baselines) == (None, None)


def test_what_has_no_better_side_stands_beside_the_base_as_it_is() -> None:
    job = make_job(None, metrics=["answerLength", "refusalRate"])
    scores, _ = score_all(job, compared(prompted=answers(TRUTH)))
    assert {(score.name, score.base, score.baseline) for score in scores} == {
        ("answerLength", "1.0000", None),
        ("refusalRate", "0.0000", None),
    }


def test_pairs_have_no_likeliest_label() -> None:
    half, most = (np.full(60, value) for value in (0.5, 0.75))
    sides = {
        "base": replace(answers(right_in(0)), preferred=half),
        "tuned": replace(answers(TRUTH), preferred=most),
        "prompted": replace(answers(TRUTH), preferred=most),
        "likelihood": answers(TRUTH),
    }
    scores, _ = score_all(make_job(None), compared(**sides))
    assert (scores[0].name, scores[0].baseline) == ("preferenceAccuracy", "Prompted")
    assert [each.asked for each in scores[0].baselines] == ["AsIs", "Prompted"]


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("exactMatch", {"AsIs": 0.5, "Prompted": 0.5}, "AsIs"),
        ("loss", {"AsIs": 0.5, "Prompted": 0.4}, "Prompted"),
    ],
)
def test_of_equal_ones_the_plain_question_counts(
    name: str, values: dict[Any, float], best: str
) -> None:
    assert best_of(name, values) == best


def test_the_last_words_of_a_stage_keep_which_base_it_was() -> None:
    sides = {"prompted": answers(right_in(50)), "likelihood": answers(right_in(54))}
    scores, _ = score_all(make_job(None), compared(**sides))
    result = {
        "stage": "evaluate",
        "scores": [
            {**score.to_wire(), "name": f"{score.name}{number}"}
            for number in range(8)
            for score in scores
        ],
        "numSamples": 60,
        "reportUri": "s3://bucket/report.json",
    }
    text = TerminationMessage.model_validate(
        {"stage": "evaluate", "exitCode": 0, "result": result}, by_alias=True
    ).to_text()
    assert len(text.encode()) <= 4096
    kept = TerminationMessage.model_validate_json(text).result
    assert kept is not None
    assert kept.scores[0].baselines  # type: ignore[union-attr]
    assert kept.scores[-1].baseline == scores[-1].baseline  # type: ignore[union-attr]
