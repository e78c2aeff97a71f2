"""How often a good model meets a goal is told before it is trained."""

from __future__ import annotations

import re

import numpy as np
import pytest

from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_api.v1alpha1.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_trainer.statistics.paired import compare_means
from finetune_trainer.verdict.hypotheses import of_goal
from finetune_trainer.verdict.power import (
    Supposed,
    chance_of_goal,
    count_for_goal,
    describe_power,
    describe_power_without_data,
    suppose,
)
from kit.cases.spec_cases import changed, minimal_job


def goal_of(metric: str = "exactMatch", **asked: str) -> Goal:
    return Goal.model_validate({"metric": metric, **asked})


def spec_with(goal: dict[str, str], **evaluation: object) -> FineTuneJobSpec:
    change = {"spec.goal": goal, "spec.evaluation": evaluation}
    return FineTuneJob.from_wire(changed(minimal_job(), change)).spec


def test_a_good_model_may_miss_its_goal_on_a_hundred_prompts() -> None:
    assert describe_power(goal_of(atLeast="0.80"), 100) == (
        "goal: with 100 independent prompts, a model truly at 0.9 meets exactMatch atLeast 0.80 in "
        "70 % of runs; 143 prompts make it 90 %"
    )


def test_all_that_a_goal_asks_is_counted() -> None:
    words = describe_power(goal_of(atLeast="0.80", overBase="0.5"), 100, constant=0.85)
    assert "exactMatch atLeast 0.80, overBase 0.5 (base truly at 0.213) and better than" in words
    assert "the best constant answer (truly at 0.85) in at least" in words
    asked = suppose(goal_of(atLeast="0.8"), constant=0.5)
    harder = suppose(goal_of(atLeast="0.8"), constant=0.85)
    assert asked is not None
    assert harder is not None
    assert harder.truth == pytest.approx(0.925)  # halfway from the constant to the best
    assert chance_of_goal(harder, 100) < chance_of_goal(asked, 100)
    assert (count_for_goal(harder) or 0) > (count_for_goal(asked) or 0)


@pytest.mark.slow
def test_the_chance_is_that_of_the_verdicts_own_bounds() -> None:
    asked = Supposed(
        asked=of_goal(goal_of(atLeast="0.7", overBase="0.2")),
        tail=0.025,
        truth=0.85,
        base=0.5,
        constant=0.6,
    )
    rng, number = np.random.default_rng(1), 100
    met = 0
    for run in range(300):
        base, tuned, constant = (
            (rng.random(number) < share).astype(np.float64) for share in (0.5, 0.85, 0.6)
        )
        alone = np.arange(number)
        of_base = compare_means(base, tuned, alone, seed=run, num_draws=1000)
        of_constant = compare_means(constant, tuned, alone, seed=run, num_draws=1000)
        met += (
            of_base.tuned.interval().low >= 0.7
            and of_base.gain.interval().low >= 0.2
            and of_constant.gain.interval().low > 0
        )
    chance = chance_of_goal(asked, number)
    assert chance - 0.06 <= met / 300 <= chance + 0.15  # what is met together is likelier so


def test_what_cannot_be_counted_is_not_told() -> None:
    assert describe_power(goal_of("loss", atMost="1"), 100) == ""
    assert describe_power(goal_of(atLeast="0.8"), 0) == ""
    assert "no model meets exactMatch" in describe_power(goal_of(atLeast="0.8"), 100, constant=1.0)


def test_without_data_the_most_prompts_are_taken() -> None:
    words = describe_power_without_data(spec_with({"metric": "rougeL", "atLeast": "0.5"}))
    assert words.startswith("goal, if 2,500 rows give 500 prompts (testPercent 20;")
    assert "with 500 independent prompts" in words
    assert "(taken to be at 0)" in words
    few = describe_power_without_data(
        spec_with({"metric": "jsonValid", "atLeast": "0.9"}, maxSamples=50)
    )
    assert "with 50 independent prompts" in few
    assert "constant" not in few


def test_uneven_labels_take_more_rows() -> None:
    goal = goal_of("macroF1", atLeast="0.8")
    told = [describe_power(goal, 300, unevenness=factor) for factor in (1.0, 3.0)]
    shares = [int(re.findall(r"(\d+) % of runs", words)[0]) for words in told]
    assert shares[0] > shares[1]


@pytest.mark.parametrize(("number", "is_told"), [(40, True), (400, False)])
def test_a_goal_that_most_good_models_miss_is_called_too_high(number: int, is_told: bool) -> None:
    words = describe_power(goal_of(atLeast="0.90", overBase="0.10"), number, constant=0.275)
    assert words.startswith(f"goal too high for {number} test rows: ") == is_told
