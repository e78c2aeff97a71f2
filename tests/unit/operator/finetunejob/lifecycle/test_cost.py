"""What a job costs is told as stages end, and a budget stops what runs, with a save."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.pods.admission import find_violations
from finetune_operator.finetunejob.state.actions import PauseJob
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONFIG,
    after,
    at,
    child,
    complete,
    condition,
    job,
    merged,
    observe,
    running,
    stages_done,
    succeeded,
    trained,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE
PRICED = CONFIG.model_copy(update={"gpu_hour_price": "2.50"})


def on_eight_gpus(**spec: Any) -> dict[str, Any]:
    """A job in training on two nodes with four GPUs each; its evaluation takes four."""
    body = trained(job(resources={"nodes": 2, "gpusPerNode": 4}))
    body["spec"] |= spec
    return body


def training_since(start: float, *, before: int = 0) -> dict[str, Any]:
    noted = {"finetune.dev/active-seconds": str(before)} if before else None
    train = child(TRAIN, status=running(start), annotations=noted)
    return merged(stages_done(PREPARE), {"jobs": {TRAIN: train}})


@pytest.mark.parametrize(
    ("budget", "config", "limit_seconds"),
    [
        ({"gpuHours": "1"}, CONFIG, 450),
        ({"gpuHours": "0.5"}, CONFIG, 225),
        ({"amount": "2.50"}, PRICED, 450),
        ({"gpuHours": "1", "amount": "1.25"}, PRICED, 225),
        ({"gpuHours": "0.25", "amount": "100"}, PRICED, 112.5),
    ],
    ids=["hours", "less than one", "money", "money is less", "hours are less"],
)
def test_a_budget_counts_the_gpus_of_all_nodes_and_stops_what_runs(budget, config, limit_seconds):
    body = on_eight_gpus(budget=budget)
    early = plan(observe(body, **training_since(1000)), at(990 + limit_seconds), config)
    assert not is_terminal(early.status or body["status"])
    assert early.requeue_after == pytest.approx(10, abs=0.6)
    late = plan(observe(body, **training_since(1000)), at(1001 + limit_seconds), config)
    assert condition(late, "Failed")["reason"] == "BudgetExceeded"
    assert late.status["lastFailure"]["class"] == "BudgetExceeded"
    # The pods are told to stop, and save; nothing is deleted under them.
    assert [type(action) for action in late.then] == [PauseJob]
    message = condition(late, "Failed")["message"]
    assert "GPU hours" in message
    assert "finetune retry headlines" in message


def test_the_time_of_attempts_before_counts_and_that_of_prepare_does_not():
    body = on_eight_gpus(budget={"gpuHours": "1"})
    made = plan(observe(body, **training_since(1000, before=400)), at(1049), CONFIG)
    assert not is_terminal(made.status or body["status"])
    made = plan(observe(body, **training_since(1000, before=400)), at(1051), CONFIG)
    assert condition(made, "Failed")["reason"] == "BudgetExceeded"


def test_a_budget_that_is_raised_in_time_lets_the_job_run_on():
    body = on_eight_gpus(budget={"gpuHours": "1"})
    body["spec"]["budget"] = {"gpuHours": "10"}
    made = plan(observe(body, **training_since(1000)), at(2000), CONFIG)
    assert not is_terminal(made.status or body["status"])


def test_a_price_that_was_taken_away_ends_no_job_that_was_accepted_with_it():
    body = on_eight_gpus(budget={"amount": "0.01"})
    made = plan(observe(body, **training_since(1000)), at(9000), CONFIG)
    assert not is_terminal(made.status or body["status"])


def test_the_cost_is_told_as_each_stage_ends_and_whole_at_the_end():
    body = on_eight_gpus()
    assert "cost" not in body["status"]
    train = merged(
        stages_done(PREPARE),
        {
            "jobs": {TRAIN: child(TRAIN, status=complete(0, 900))},
            "pods": {TRAIN: (succeeded(TRAIN),)},
        },
    )
    made = plan(observe(body, **train), at(901), PRICED)
    assert made.status["cost"] == {"gpuHours": "2.000", "amount": "5.00"}
    body = after(body, made)
    evaluate = merged(
        train,
        {
            "jobs": {EVALUATE: child(EVALUATE, status=complete(1000, 1360))},
            "pods": {EVALUATE: (succeeded(EVALUATE),)},
        },
    )
    body = after(body, plan(observe(body, **evaluate), at(1361), PRICED))
    assert is_terminal(body["status"])
    assert body["status"]["cost"] == {"gpuHours": "2.400", "amount": "6.00"}


def test_a_job_that_is_stopped_is_told_what_its_running_stage_has_cost():
    body = on_eight_gpus(budget={"gpuHours": "1"})
    late = plan(observe(body, **training_since(1000)), at(1500), CONFIG)
    assert late.status["cost"] == {"gpuHours": "1.111"}


def test_what_was_used_before_a_pause_is_told_and_stays_told_while_it_runs_again():
    """A sweep holds it against its budget: its trials pause at rungs, and are preempted."""
    body = on_eight_gpus(suspend=True)
    noted = {"finetune.dev/active-seconds": "900", "finetune.dev/active-start": timestamp(at(100))}
    paused = child(TRAIN, status={"startTime": timestamp(at(100))}, annotations=noted, suspend=True)
    made = plan(
        observe(body, **merged(stages_done(PREPARE), {"jobs": {TRAIN: paused}})), at(1100), CONFIG
    )
    assert made.status["cost"] == {"gpuHours": "2.000"}
    body = after(body, made)
    body["spec"]["suspend"] = False
    again = plan(observe(body, **training_since(2000, before=900)), at(3000), CONFIG)
    assert (again.status or body["status"])["cost"] == {"gpuHours": "2.000"}
    forgotten = plan(observe(body, **training_since(2000)), at(3000), CONFIG)
    assert (forgotten.status or body["status"])["cost"] == {"gpuHours": "2.000"}


def test_a_job_on_cpus_costs_nothing_that_is_told():
    body = trained(job(resources={"gpusPerNode": 0}))
    made = plan(observe(body, **training_since(0)), at(9000), PRICED)
    assert "cost" not in (made.status or body["status"])


@pytest.mark.parametrize(("config", "num_refused"), [(CONFIG, 1), (PRICED, 0)])
def test_money_without_a_price_is_refused_with_what_to_write_instead(config, num_refused):
    spec = FineTuneJob.from_wire(job(resources={"gpusPerNode": 1}, budget={"amount": "20"})).spec
    found = [str(each) for each in find_violations(spec, config)]
    assert len(found) == num_refused
    assert all("spec.budget.amount: 20" in each and "budget.gpuHours" in each for each in found)
