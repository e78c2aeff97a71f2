"""What is measured meets a goal only with its near bound, and only on enough prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_trainer.statistics.bounded import confidence_of_share
from finetune_trainer.statistics.confidence import LEAST_OVER, SLACK, Confidence, Interval
from finetune_trainer.verdict.goal import Measurement, check_evidence, check_goal, find_criteria
from finetune_trainer.verdict.hypotheses import Rival


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high)


def measured(tuned: Interval, gain: Interval, num_prompts: int = 100) -> Measurement:
    base = interval(tuned.value - gain.value, 0.2, 0.4)
    return Measurement(base=base, tuned=tuned, gain=gain, num_prompts=num_prompts)


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
    verdict, words = check_goal(Goal.model_validate(goal), measured(tuned, gain))
    assert verdict is met
    assert ("MISSED" in words) is not met
    assert "bound" in words


@pytest.mark.parametrize(
    ("goal", "tuned", "gain", "words"),
    [
        (
            {"metric": "exactMatch", "atLeast": "0.90"},
            UNSURE,
            GAIN,
            "exactMatch MISSED 0.910, lower bound 0.840 (goal: at least 0.90), at 95 % certainty; "
            "if the score stays, about 4,800 independent held-out prompts more than these 100 "
            "would decide it",
        ),
        (
            {"metric": "exactMatch", "atLeast": "0.95", "certainty": "0.8"},
            UNSURE,
            GAIN,
            "at 80 % certainty; the score itself misses, which no number of held-out prompts "
            "changes",
        ),
        (
            {"metric": "exactMatch", "overBase": "0.05"},
            SURE,
            interval(0.1, -0.025, 0.2),
            "MISSED +0.100 over base 0.850 [0.200, 0.400], lower bound -0.025 (goal: at least "
            "0.05), at 95 % certainty; if the score stays, about 525 independent",
        ),
        (
            {"metric": "loss", "atMost": "1.05"},
            LOSS,
            LESS_LOSS,
            "MISSED 1.000, upper bound 1.100 (goal: at most 1.05), at 95 % certainty; if the score "
            "stays, about 300 independent held-out prompts more than these 100 would decide it; "
            "its bounds are a bootstrap's, for it has no limits",
        ),
        (
            {"metric": "exactMatch", "atLeast": "0.9"},
            interval(0.95, 0.89995, 1),
            GAIN,
            "0.950, lower bound 0.899",  # not the 0.900 that it misses
        ),
        ({"metric": "exactMatch", "atLeast": "0.5"}, SURE, GAIN, "exactMatch 0.950, lower bound"),
        (
            {"metric": "exactMatch", "atLeast": "0.90"},
            interval(1799 / 1999, 0.8859, 0.9128),  # not the 0.900 that it misses
            GAIN,
            "MISSED 0.8999, lower bound 0.885 (goal: at least 0.90), at 95 % certainty; the score "
            "itself misses",
        ),
        (
            {"metric": "exactMatch", "atLeast": "0.9005"},
            interval(0.95, 0.90053, 0.98),
            GAIN,
            "0.950, lower bound 0.90053 (goal: at least 0.9005)",
        ),
        (
            {"metric": "exactMatch", "overBase": "0.3"},
            SURE,
            interval(0.4, 0.3004, 0.5),
            "+0.400 over base 0.550 [0.200, 0.400], lower bound +0.3004 (goal: at least 0.3)",
        ),
        (
            {"metric": "exactMatch", "overBase": "0"},  # of a base that is always right
            interval(1.0, 0.981, 1.0),
            interval(0.0, -0.0183, 0.0183),
            "MISSED +0.000 over base 1.000 [0.200, 0.400], lower bound -0.019 (goal: at least 0), "
            "at 95 % certainty; the score is just what is asked and no more, so its bound misses",
        ),
        (
            {"metric": "loss", "atMost": "1.00"},
            interval(1.0, 0.9, 1.1),
            LESS_LOSS,
            "upper bound 1.100 (goal: at most 1.00), at 95 % certainty; the score is just what is",
        ),
        (
            {"metric": "judgeWinRate", "atLeast": "0.90"},
            UNSURE,
            GAIN,
            "more than these 100 would decide it (a judge sees as many as evaluation.judge.sample "
            "and half of maxCalls allow)",
        ),
        # The end of a scale that has one: the bound comes nearer with the number of prompts.
        (
            {"metric": "exactMatch", "atLeast": "0.95"},
            interval(1.0, 0.8843, 1.0),
            GAIN,
            "about 42 independent held-out prompts more than these 30",
        ),
        (
            {"metric": "loss", "overBase": "0.9"},
            interval(1.0, 0.9, 1.1),
            interval(-1.0, -1.2, -0.8),  # a gain of 1 is no end of a loss's scale
            "about 90 independent held-out prompts more than these 30",
        ),
    ],
)
def test_the_words_say_number_bound_and_what_would_be_enough(
    goal: dict[str, str], tuned: Interval, gain: Interval, words: str
) -> None:
    number = 30 if "these 30" in words else 100
    _, said = check_goal(Goal.model_validate(goal), measured(tuned, gain, number))
    assert words in said


def test_more_certainty_asks_for_more() -> None:
    share = confidence_of_share(95, 100)
    verdicts = {}
    for certainty in ("0.8", "0.95", "0.99"):
        goal = Goal.model_validate(
            {"metric": "exactMatch", "atLeast": "0.88", "certainty": certainty}
        )
        verdicts[certainty], _ = check_goal(goal, measured(share.interval(float(certainty)), GAIN))
    assert verdicts == {"0.8": True, "0.95": True, "0.99": False}


def test_a_bound_without_limit_meets_nothing() -> None:
    unknown = interval(1.0, -float("inf"), float("inf"))
    goal = Goal.model_validate({"metric": "loss", "atMost": "9"})
    verdict, words = check_goal(goal, measured(unknown, unknown, 1))
    assert verdict is False
    assert "upper bound inf" in words
    assert "no feasible number" in words


@pytest.mark.parametrize("met", [True, False, None])
def test_too_few_prompts_decide_nothing(met: bool | None) -> None:
    assert check_evidence(met, "w", num_prompts=30, min_prompts=30) == (met, "w")
    verdict, words = check_evidence(met, "w", num_prompts=29, min_prompts=30)
    assert verdict is False
    assert "MISSED 29 distinct held-out prompt(s), evaluation.minPrompts asks for 30" in words


@pytest.mark.parametrize(
    ("low", "is_above"), [(0.0, False), (SLACK / 2, False), (LEAST_OVER, True), (1e-7, True)]
)
def test_goal_and_gates_agree_on_what_is_above_a_rival(low: float, is_above: bool) -> None:
    bounds = np.full(9, low)
    over = Confidence(value=low, lower=bounds, upper=bounds)
    rival = Rival(what="always giving no answer", over=over)
    found = replace(measured(interval(0.9, 0.8, 1), interval(0, 0, 0)), rivals=(rival,))
    criterion = find_criteria(Goal(metric="exactMatch", at_least="0.5"), found)[-1]
    assert (criterion.met, rival.is_missed(0.95)) == (is_above, not is_above)
