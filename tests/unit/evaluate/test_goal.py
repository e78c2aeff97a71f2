"""What is measured meets a goal only with its near bound, and only on enough prompts."""

from __future__ import annotations

import pytest

from finetune_api.v1alpha1.finetunejob import Goal
from finetune_trainer.evaluate.goal import check_evidence, check_goal
from finetune_trainer.evaluate.intervals import Interval


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high)


SURE = interval(0.95, 0.91, 0.98)
UNSURE = interval(0.91, 0.84, 0.97)
GAIN = interval(0.40, 0.31, 0.49)
NO_GAIN = interval(0.01, -0.02, 0.05)
LOSS = interval(1.0, 0.9, 1.1)
LESS_LOSS = interval(-0.6, -0.7, -0.5)


@pytest.mark.parametrize(
    ("goal", "tuned", "gain", "met"),
    [
        ({"metric": "exactMatch", "atLeast": "0.9"}, SURE, GAIN, True),
        ({"metric": "exactMatch", "atLeast": "0.9"}, UNSURE, GAIN, False),
        ({"metric": "exactMatch", "atLeast": "0.90"}, interval(0.95, 0.89995, 1), GAIN, False),
        ({"metric": "exactMatch", "overBase": "0.3"}, SURE, GAIN, True),
        ({"metric": "exactMatch", "overBase": "0.0"}, SURE, NO_GAIN, False),
        ({"metric": "exactMatch", "atLeast": "0.9", "overBase": "0.4"}, SURE, GAIN, False),
        ({"metric": "loss", "atMost": "1.1"}, LOSS, LESS_LOSS, True),
        ({"metric": "loss", "atMost": "1.05"}, LOSS, LESS_LOSS, False),
        ({"metric": "loss", "overBase": "0.5"}, LOSS, LESS_LOSS, True),
        ({"metric": "loss", "overBase": "0.6"}, LOSS, LESS_LOSS, False),
        ({"metric": "perplexity", "atMost": "3", "overBase": "9"}, LOSS, LESS_LOSS, False),
    ],
)
def test_the_near_bound_decides(
    goal: dict[str, str], tuned: Interval, gain: Interval, met: bool
) -> None:
    verdict, words = check_goal(Goal.model_validate(goal), tuned=tuned, gain=gain)
    assert verdict is met
    assert ("MISSED" in words) is not met
    assert "bound" in words


@pytest.mark.parametrize("met", [True, False, None])
def test_too_few_prompts_decide_nothing(met: bool | None) -> None:
    assert check_evidence(met, "w", num_prompts=30, min_prompts=30) == (met, "w")
    verdict, words = check_evidence(met, "w", num_prompts=29, min_prompts=30)
    assert verdict is False
    assert "MISSED 29 distinct held-out prompt(s), evaluation.minPrompts asks for 30" in words
