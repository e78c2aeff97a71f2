"""Trials that are compared by how their answers to validation rows score."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from finetune_operator.config import OperatorConfig
from finetune_operator.finetunesweep.trials.trial import value_at
from kit.builders.sweeps import HUNDRED_TRIALS, RATE, RATES, SweepWorld, loss_of, sweep

Object = dict[str, Any]
Scores = Callable[[Object], Object]

F1 = {"metric": "macroF1", "direction": "Maximize"}
BY_GOAL: Object = {"objective": {}}


def scoring(values: list[str], metric: str = "exactMatch") -> Scores:
    """Return scores of the four rates; an empty one is a scoring that failed."""

    def score(job: Object) -> Object:
        value = values[RATES.index(value_at(job["spec"], RATE))]
        if not value:
            return {"metric": metric, "numSamples": 0, "reason": "CustomMetricFailed",
                    "message": "score.py: division by zero"}  # fmt: skip
        return {"metric": metric, "value": value, "low": "0.1", "high": "0.95", "numSamples": 80}

    return score


async def lived(body: Object, scores: Scores | None) -> SweepWorld:
    world = SweepWorld(body, scores=scores)
    await world.live()
    return world


def trials_of(world: SweepWorld) -> dict[str, Object]:
    return {trial["name"]: trial for trial in world.status["trials"]}


async def test_without_a_word_the_goals_metric_decides_not_the_loss():
    world = await lived(sweep(**BY_GOAL), scoring(["0.5", "0.9", "0.7", "0.6"]))
    status = world.status
    assert status["objective"] == {"metric": "exactMatch", "direction": "Maximize"}
    assert status["best"] == {
        "name": "rates-t2", "score": "0.9", "parameters": {RATE: "1e-4"}, "chosen": True
    }  # fmt: skip
    validation = {job["spec"]["evaluation"]["validation"]["metric"] for job in world.jobs.values()}
    assert validation == {"exactMatch"}
    trial = trials_of(world)["rates-t3"]
    lowest = f"{loss_of(world.jobs['rates-t3'], 30):.6g}"
    assert (trial["score"], trial["low"], trial["high"]) == ("0.7", "0.1", "0.95")
    assert trial["loss"] == lowest
    selected = [text for reason, text in world.recorder.events if reason == "Selected"]
    assert len(selected) == 1
    assert selected[0].startswith("rates-t2 ")
    assert "exactMatch 0.9 [0.1, 0.95]" in selected[0]


async def test_of_equal_scores_the_lower_loss_wins():
    world = await lived(sweep(**BY_GOAL), scoring(["0.9", "0.9", "0.9", "0.9"]))
    assert world.status["best"]["name"] == "rates-t3"


async def test_a_metric_of_which_less_is_better_is_minimised():
    body = sweep(objective={"metric": "perplexity", "maxSamples": 40})
    world = await lived(body, scoring(["3.1", "2.5", "9.0", "7.0"], "perplexity"))
    assert world.status["objective"]["direction"] == "Minimize"
    assert world.status["best"]["name"] == "rates-t2"
    asked = {
        tuple(sorted(job["spec"]["evaluation"]["validation"].items()))
        for job in world.jobs.values()
    }
    assert asked == {(("maxSamples", 40), ("metric", "perplexity"))}


@pytest.mark.parametrize(
    ("goal", "objective", "method", "metric"),
    [
        ({"metric": "bleu", "atLeast": "0.3"}, {}, "SFT", "bleu"),
        ({"metric": "bleu", "atLeast": "0.3"}, {"metric": "validationLoss"}, "SFT",
         "validationLoss"),
        ({"metric": "bleu", "atLeast": "0.3"}, F1, "SFT", "macroF1"),
        ({"metric": "loss", "atMost": "2"}, {}, "SFT", "validationLoss"),
        ({"metric": "loss", "atMost": "2"}, {}, "DPO", "loss"),
        ({"metric": "judgeWinRate", "atLeast": "0.6"}, {}, "SFT", "validationLoss"),
        (None, {}, "SFT", "validationLoss"),
        (None, F1, "SFT", "macroF1"),
    ],
)  # fmt: skip
async def test_what_trials_are_compared_by_follows_from_objective_and_goal(
    goal, objective, method, metric
):
    body = sweep(objective=objective)
    template = body["spec"]["template"]
    template["method"] = {"objective": method}
    template.pop("goal", None)
    if goal is not None:
        template["goal"] = goal
    if goal is not None and goal["metric"] == "judgeWinRate":
        template["evaluation"] = {
            "judge": {"endpoint": "https://judge.example.org/v1", "model": "large"}
        }
    config = OperatorConfig(allowed_judge_endpoints=["https://judge.example.org/*"])
    world = SweepWorld(body, config=config)
    await world.reconcile()
    await world.reconcile()
    assert world.status["objective"]["metric"] == metric, world.status
    asked = value_at(world.jobs["rates-t1"]["spec"], "evaluation.validation.metric")
    assert asked == (None if metric == "validationLoss" else metric)


async def test_trials_are_stopped_by_their_loss_whatever_they_are_compared_by():
    stopping = {"method": "ASHA", "minSteps": 10, "reduction": 2}
    by_loss = await lived(sweep(earlyStopping=stopping), None)
    scores = scoring(["0.9", "0.8", "0.7", "0.6"])
    by_score = await lived(sweep(**BY_GOAL, earlyStopping=stopping), scores)
    stopped = [
        {name for name, trial in trials_of(world).items() if trial["state"] == "Pruned"}
        for world in (by_loss, by_score)
    ]
    assert stopped[0] == stopped[1] != set()
    assert by_score.status["best"]["name"] not in stopped[0]


async def test_a_trial_without_a_score_cannot_win_and_says_why():
    world = await lived(sweep(**BY_GOAL), scoring(["0.5", "", "", "0.6"]))
    assert world.status["best"]["name"] == "rates-t4"
    trial = trials_of(world)["rates-t2"]
    assert "score" not in trial
    assert trial["reason"] == "CustomMetricFailed"
    told = [text for reason, text in world.recorder.events if reason == "TrialNotScored"]
    assert [text.split()[0] for text in told] == ["rates-t2", "rates-t3"]
    assert all(
        "exactMatch: CustomMetricFailed: score.py: division by zero" in text for text in told
    )


async def test_a_trainer_that_tells_no_score_is_not_taken_for_a_good_one():
    world = SweepWorld(sweep(**BY_GOAL, trials=2))
    await world.live()
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "NoTrialTrained")
    assert "rates-t1 has no exactMatch: NotScored:" in world.condition("Failed")["message"]


async def test_when_the_first_trials_cannot_be_scored_no_more_are_trained():
    world = await lived(sweep(**BY_GOAL, parallelism=1), scoring(["", "", "", "0.9"]))
    assert sorted(world.jobs) == ["rates-t1", "rates-t2", "rates-t3"]
    message = world.condition("Failed")["message"]
    assert message.startswith("The first 3 trials were trained, and none could be scored")
    assert "division by zero" in message


async def test_replicates_are_of_the_best_by_score_and_told_in_its_unit():
    world = await lived(sweep(**BY_GOAL, replicates=2), scoring(["0.5", "0.9", "0.7", "0.6"]))
    best = world.status["best"]
    assert (best["mean"], best["spread"]) == ("0.9", "0")
    again = {trial.get("replicateOf") for trial in world.status["trials"]} - {None}
    assert again == {"rates-t2"}


async def test_before_one_is_scored_there_is_no_best_one():
    world = SweepWorld(sweep(**BY_GOAL), scores=scoring(["0.5", "0.9", "0.7", "0.6"]))
    await world.reconcile()
    world.work()
    await world.reconcile()
    assert "best" not in world.status
    assert trials_of(world)["rates-t1"]["loss"]
    await world.live()
    assert world.status["best"]["name"] == "rates-t2"


@pytest.mark.slow
async def test_the_status_of_a_hundred_scored_trials_stays_small():

    def score(job: Object) -> Object:
        share = float(value_at(job["spec"], RATE)) * 90
        return {"metric": "exactMatch", "value": f"{share:.4f}", "low": f"{share / 2:.4f}",
                "high": f"{share + 0.1:.4f}", "numSamples": 500}  # fmt: skip

    world = await lived(sweep(**BY_GOAL, **HUNDRED_TRIALS), score)
    assert len(world.status["trials"]) == 48
    assert max(float(entry["score"]) for entry in world.status["trials"]) == float(
        world.status["best"]["score"]
    )
    assert len(json.dumps(world.status)) < 20_000
