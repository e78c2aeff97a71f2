"""A goal is met by what its metric can score, and by no other rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import gather_questions
from finetune_trainer.evaluate.scores.gating import judge_goal
from finetune_trainer.evaluate.scores.measuring import score_all
from kit.cases.spec_cases import changed, minimal_job

PAIRS = [{"prompt": f"p{i}", "completion": f"a long answer to all of x{i}"} for i in range(6)]
TEXTS = [{"text": f"text {i}"} for i in range(24)]


def comparison_of(rows: list[dict[str, Any]]) -> Comparison:
    """Everything is answered right, and everything is likely."""
    questions = gather_questions(rows, max_questions=1000, seed=0)
    said = Answers(
        texts=[question.references[0] for question in questions if question.references],
        nll_sums=np.ones(len(questions)),
        num_tokens=np.ones(len(questions)),
    )
    return Comparison(questions=questions, base=said, tuned=said)


def judged(
    goal: dict[str, str] | None, rows: list[dict[str, Any]], **evaluation: Any
) -> tuple[bool | None, str]:
    change = {"spec.goal": goal, "spec.evaluation": {"numBootstrapSamples": 200, **evaluation}}
    spec = changed(minimal_job(), change)["spec"]
    job = ResolvedJob.model_validate({"namespace": "n", "name": "j", "uid": "u", "spec": spec})
    comparison = comparison_of(rows)
    return judge_goal(job.spec, comparison, score_all(job, comparison)[1])


EXACT = {"metric": "exactMatch", "atLeast": "0.5"}


@pytest.mark.parametrize(
    ("goal", "rows", "least", "met"),
    [
        (EXACT, [*PAIRS, *TEXTS], 30, False),
        (EXACT, [*PAIRS, *TEXTS], 7, False),
        (EXACT, [*PAIRS, *TEXTS], 6, True),
        (EXACT, PAIRS, 6, True),
        ({"metric": "loss", "atMost": "2"}, [*PAIRS, *TEXTS], 30, True),
        ({"metric": "loss", "atMost": "2"}, [*PAIRS, *TEXTS], 31, False),
        ({"metric": "perplexity", "atMost": "9"}, [*PAIRS, *TEXTS], 30, True),
        (None, [*PAIRS, *TEXTS], 30, None),
        (None, [*PAIRS, *TEXTS], 31, False),
    ],
)
def test_prompts_are_those_that_the_goals_metric_scores(
    goal: dict[str, str] | None, rows: list[dict[str, Any]], least: int, met: bool | None
) -> None:
    verdict, words = judged(goal, rows, minPrompts=least)
    assert verdict is met, words
    number = 6 if goal == EXACT else 30
    assert words.startswith(f"MISSED {number} distinct held-out prompt(s)") is (met is False)


def test_a_goal_that_was_not_measured_is_missed_on_the_prompts_that_it_would_have_scored() -> None:
    job = changed(minimal_job(), {"spec.goal": EXACT, "spec.evaluation": {"minPrompts": 7}})
    resolved = ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": job["spec"]}
    )
    said = comparison_of([*PAIRS, *TEXTS])
    lost = Comparison(
        questions=said.questions, base=said.base, tuned=said.tuned,
        unmeasured={"exactMatch": "nobody counted"},
    )  # fmt: skip
    met, words = judge_goal(resolved.spec, lost, {})
    assert met is False
    assert words.startswith("MISSED 6 distinct ")
    assert "MISSED exactMatch was not measured: nobody counted" in words


def test_plain_text_is_scored_by_likelihoods_alone() -> None:
    said = comparison_of([*PAIRS, *TEXTS])
    numbers = {
        metric: len(said.scored_by(metric))
        for metric in ("exactMatch", "preferenceAccuracy", "judgeScore", "loss", "bitsPerByte")
    }
    assert numbers == {
        "exactMatch": 6, "preferenceAccuracy": 6, "judgeScore": 6, "loss": 30, "bitsPerByte": 30,
    }  # fmt: skip
