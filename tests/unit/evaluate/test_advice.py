"""Whether prompting would do is said with a bound, and never because one of several was lucky."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.advice import Advice, advise
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import gather_questions
from kit.cases.spec_cases import changed, minimal_job

TRUTH = ["a", "b", "c"] * 20


def answers(num_right: int, *, loss: float = 1.0) -> Answers:
    texts = [label if place < num_right else "?" for place, label in enumerate(TRUTH)]
    return Answers(texts=texts, nll_sums=np.full(60, loss), num_tokens=np.ones(60))


def advice_on(goal: dict[str, str] | None, base: Answers, **others: Answers) -> Advice:
    change: dict[str, Any] = {"spec.evaluation": {"numBootstrapSamples": 200}}
    body = changed(minimal_job(), {**change, **({"spec.goal": goal} if goal else {})})
    job = ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": body["spec"]}
    )
    rows = [{"prompt": f"p{n}", "completion": label} for n, label in enumerate(TRUTH)]
    questions = gather_questions(rows, max_questions=1000, seed=0)
    return advise(job, Comparison(questions=questions, base=base, tuned=base, **others))


@pytest.mark.parametrize(
    ("num_right", "verdict", "opening"),
    [
        (60, "Met", "Prompting already meets the goal: exactMatch of the base with a prompt is"),
        (37, "NotMet", "Prompting does not meet the goal: exactMatch of the base with a prompt is"),
        (50, "Undecided", "Whether prompting meets the goal is not decided: exactMatch of the"),
    ],
)
def test_the_goal_is_asked_of_the_prompted_base(num_right: int, verdict: str, opening: str) -> None:
    goal = {"metric": "exactMatch", "atLeast": "0.80"}
    advice = advice_on(goal, answers(0), prompted=answers(num_right))
    assert (advice.verdict, advice.asked) == (verdict, "Prompted")
    assert advice.sentence.startswith(opening)
    assert f"is {num_right / 60:.3f} [" in advice.sentence
    assert "the goal asks for at least 0.80 (95 % certainty over all 2 ways" in advice.sentence
    assert advice.suggestions


def test_several_ways_must_be_surer_than_one() -> None:
    goal = {"metric": "exactMatch", "atLeast": "0.80"}
    # 55 of 60: the lower bound at 95 % is 0.816, at the 98.3 % of three ways 0.797.
    assert advice_on(goal, answers(55)).verdict == "Met"
    three = advice_on(goal, answers(55), prompted=answers(54), likelihood=answers(53))
    assert three.verdict == "Undecided"


def test_a_goal_on_the_gain_alone_says_what_it_asks_for() -> None:
    goal = {"metric": "exactMatch", "overBase": "0.30"}
    advice = advice_on(goal, answers(0), prompted=answers(30))
    assert advice.verdict == "NoThreshold"
    assert "exactMatch of the base with a prompt is 0.500 [0.3" in advice.sentence
    assert "asks the tuned model for about 0.800" in advice.suggestions[0]
    beyond = advice_on(goal, answers(0), likelihood=answers(50), prompted=answers(0))
    assert "cannot be reached: the base is at 0.833" in beyond.suggestions[0]


def test_a_loss_is_met_from_above() -> None:
    goal = {"metric": "loss", "atMost": "0.5", "overBase": "0.1"}
    advice = advice_on(goal, answers(0, loss=2.0), prompted=answers(0, loss=0.25))
    assert (advice.verdict, advice.asked) == ("Met", "Prompted")
    assert any("about 0.150" in text for text in advice.suggestions)
    assert advice_on(goal, answers(0, loss=2.0)).verdict == "NotMet"


def test_without_a_goal_there_is_nothing_to_reach() -> None:
    advice = advice_on(None, answers(60))
    assert (advice.verdict, advice.asked) == ("NoGoal", None)
