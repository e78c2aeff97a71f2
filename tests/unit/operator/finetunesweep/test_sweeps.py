"""The life of a sweep: what it creates, stops, chooses and tells."""

from __future__ import annotations

import json

import pytest
from prometheus_client import CollectorRegistry

from finetune_operator.kube.api.errors import Forbidden, Invalid
from finetune_operator.kube.queue.workers import RequeueAfter
from finetune_operator.metrics.sweeps import SweepMetrics
from kit.builders.jobs import CONFIG
from kit.builders.sweeps import (
    HUNDRED_TRIALS,
    KEY,
    NAMESPACE,
    RATE,
    RATES,
    UID,
    Death,
    SweepWorld,
    loss_of,
    sweep,
)

BEST = "rates-t3"


async def test_the_best_of_a_grid_is_published_and_the_others_are_pruned():
    world = SweepWorld()
    await world.live()
    assert world.created == ["rates-t1", "rates-t2", "rates-t3", "rates-t4"]
    rates = [job["spec"]["hyperparameters"]["learningRate"] for job in world.jobs.values()]
    assert rates == RATES
    assert {name: bool(job["spec"].get("prune")) for name, job in world.jobs.items()} == {
        "rates-t1": True, "rates-t2": True, BEST: False, "rates-t4": True
    }  # fmt: skip
    assert "holdAfter" not in world.jobs[BEST]["spec"]
    assert all("holdAfter" in job["spec"] for name, job in world.jobs.items() if name != BEST)
    status = world.status
    assert (status["phase"], status["reason"], status["progress"]) == (
        "Succeeded", "Published", "4/4"
    )  # fmt: skip
    assert status["best"] == {
        "name": BEST, "score": "1.03333", "parameters": {RATE: "1e-3"}, "chosen": True
    }  # fmt: skip
    assert status["counts"] == {
        "total": 4, "created": 4, "running": 0, "trained": 4, "pruned": 0, "failed": 0
    }  # fmt: skip
    assert status["spent"] == {"gpuHours": "2.0000", "tokens": 12000}
    assert world.condition("Published")["message"] == f"{BEST} is published as version 1"
    reasons = [reason for reason, _ in world.recorder.events]
    assert reasons[0] == "Accepted"
    assert reasons[-2:] == ["Selected", "Published"]


async def test_a_trial_is_the_template_with_a_value_at_each_path_held_and_owned_by_the_sweep():
    world = SweepWorld()
    await world.reconcile()
    job = world.jobs["rates-t1"]
    template = sweep()["spec"]["template"]
    template["hyperparameters"]["learningRate"] = "1e-5"
    assert job["spec"] == {**template, "holdAfter": "Train"}
    assert job["metadata"]["labels"] == {
        "finetune.dev/sweep": "rates",
        "finetune.dev/trial": "1",
        "app.kubernetes.io/managed-by": "finetune-operator",
    }
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("FineTuneSweep", UID, True)


async def test_no_more_trials_are_under_way_than_asked_and_an_edit_takes_effect_at_once():
    world = SweepWorld(sweep(parallelism=1))
    await world.reconcile()
    assert list(world.jobs) == ["rates-t1"]
    assert (world.status["phase"], world.status["progress"]) == ("Searching", "0/4")
    world.edit(parallelism=3)
    await world.reconcile()
    assert len(world.jobs) == 3
    await world.live()
    assert world.status["best"]["name"] == BEST


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("spec", [{}, {"replicates": 2}, {"earlyStopping": {"method": "ASHA",
    "minSteps": 10, "reduction": 2}}, {"earlyStopping": {"method": "Halving", "minSteps": 10,
    "reduction": 2}, "replicates": 1}],
    ids=["plain", "replicates", "early stopping", "halving"])  # fmt: skip
async def test_an_operator_that_dies_at_any_call_makes_no_trial_twice_and_chooses_the_same(
    spec, after
):
    whole = SweepWorld(sweep(**spec))
    await whole.live()
    num_calls = whole.client.num_calls
    assert num_calls > 12
    for dies_at in range(1, num_calls + 1):
        world = SweepWorld(sweep(**spec))
        world.start(dies_at=dies_at, after=after)
        with pytest.raises(Death):
            await world.live()
        world.start()
        await world.live()
        assert sorted(world.jobs) == sorted(whole.jobs), dies_at
        assert world.status["best"]["name"] == whole.status["best"]["name"], dies_at
        assert world.status["counts"] == whole.status["counts"], dies_at
        for name, job in world.jobs.items():
            for field in ("hyperparameters", "prune", "holdAfter"):
                assert job["spec"].get(field) == whole.jobs[name]["spec"].get(field), dies_at


async def test_a_value_that_the_templates_schema_refuses_is_told_before_anything_is_created():
    values = [{"path": "method.adapter.rank", "values": [8, 16, 1024]}]
    world = SweepWorld(sweep(parameters=values))
    await world.reconcile()
    assert world.jobs == {}
    accepted = world.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidTrial")
    assert accepted["message"].startswith("trial rates-t3 ")
    assert "method.adapter.rank: Invalid value: 1024: " in accepted["message"]
    assert "correct spec.parameters" in accepted["message"]
    assert world.condition("Failed")["status"] == world.condition("Stalled")["status"] == "True"
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "InvalidTrial")


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ({"path": RATE, "values": ["1e-4", "fast"]}, "'auto' nor a decimal number"),
        ({"path": RATE, "values": ["1e-4", "1e-4"]}, "listed twice; list each value once"),
        ({"path": RATE, "values": ["1e-4", "0"]}, "learningRate must be greater than 0"),
        ({"path": "method.adapter.dropout", "uniform": {"min": "0.1", "max": "1.5"}},
         "method.adapter.dropout must be below 1"),
        ({"path": "method.adapter.rank", "int": {"min": 0, "max": 64}},
         "should be greater than or equal to 1"),
        ({"path": "method.adapter.type", "values": ["LoRA", "Lora2"]}, "Unsupported value"),
        ({"path": "hyperparameters.globalBatchSize", "values": [8, "many"]}, "must be 'auto' or"),
    ],
)  # fmt: skip
async def test_values_that_no_job_takes_are_refused_by_name(parameter, words):
    search = "Random" if "values" not in parameter else "Grid"
    world = SweepWorld(sweep(parameters=[parameter], search=search))
    await world.reconcile()
    message = world.condition("Accepted")["message"]
    assert world.condition("Accepted")["status"] == "False"
    assert words in message
    assert parameter["path"] in message
    assert world.jobs == {}


async def test_what_the_cluster_does_not_allow_is_refused_once_and_not_by_every_trial():
    template = {"output": {"uri": "file:///somewhere"}}
    world = SweepWorld(sweep(template=template))
    await world.reconcile()
    accepted = world.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "URINotAllowed")
    assert accepted["message"].startswith("spec.template.output.uri: ")
    assert world.jobs == {}


async def test_whole_numbers_and_decimals_stand_in_a_trial_in_the_type_of_their_field():
    parameters = [
        {"path": "hyperparameters.epochs", "values": [1, 2]},
        {"path": "method.adapter.rank", "values": ["8"]},
    ]
    world = SweepWorld(sweep(parameters=parameters))
    await world.reconcile()
    assert world.jobs["rates-t2"]["spec"]["hyperparameters"]["epochs"] == "2"
    assert world.jobs["rates-t2"]["spec"]["method"]["adapter"]["rank"] == 8


async def test_random_draws_are_functions_of_the_sweep_alone():
    spec = {"parameters": [{"path": RATE, "logUniform": {"min": "1e-5", "max": "1e-2"}}],
            "search": "Random", "trials": 6, "parallelism": 6}  # fmt: skip
    drawn = []
    for _ in range(2):
        world = SweepWorld(sweep(**spec))
        await world.reconcile()
        drawn.append([j["spec"]["hyperparameters"]["learningRate"] for j in world.jobs.values()])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 6
    assert all(1e-5 <= float(rate) <= 1e-2 for rate in drawn[0])


async def test_a_missed_goal_is_the_sweeps_too_and_keeps_the_candidate():
    world = SweepWorld(ends=lambda job: ("Failed", "GoalNotMet"))
    await world.live()
    failed = world.condition("Failed")
    assert (failed["reason"], world.status["phase"]) == ("GoalNotMet", "Failed")
    assert f"trial {BEST} " in failed["message"]
    assert failed["message"].endswith(": because GoalNotMet")
    assert world.condition("Published")["status"] == "False"
    assert world.condition("Stalled")["status"] == "True"
    assert world.status["best"]["name"] == BEST
    assert not world.jobs[BEST]["spec"].get("prune")


async def test_trials_that_fail_cost_nothing_but_themselves():
    def losses(job, step):
        return float("nan") if job["metadata"]["name"] == BEST else loss_of(job, step)

    world = SweepWorld(losses=losses)
    await world.live()
    assert world.status["best"]["name"] in ("rates-t2", "rates-t4")
    assert world.status["phase"] == "Succeeded"


async def test_a_sweep_whose_first_trials_all_fail_begins_no_more():
    world = SweepWorld(sweep(parallelism=1))
    for _ in range(12):
        await world.reconcile()
        for name, job in world.jobs.items():
            status = world._ended({}, "Failed", "Failed", "DataError")
            world.put(("finetunejobs", NAMESPACE, name), {**job, "status": status})
    assert len(world.jobs) == 3
    failed = world.condition("Failed")
    assert failed["reason"] == "NoTrialTrained"
    assert "rates-t1 failed with DataError: " in failed["message"]
    assert world.status["counts"]["failed"] == 3


async def test_a_suspended_sweep_suspends_its_trials_and_goes_on_where_they_were():
    world = SweepWorld()
    await world.reconcile()
    world.work()
    world.edit(suspend=True)
    await world.reconcile()
    assert [job["spec"]["suspend"] for job in world.jobs.values()] == [True, True]
    assert (world.status["phase"], world.status["reason"]) == ("Suspended", "SuspendedByUser")
    for _ in range(5):
        world.work()
        await world.reconcile()
    assert len(world.jobs) == 2
    world.edit(suspend=False)
    await world.reconcile()
    assert [job["spec"]["suspend"] for job in world.jobs.values()] == [False, False]
    assert world.condition("Suspended")["reason"] == "Resumed"
    await world.live()
    assert world.status["best"]["name"] == BEST


async def test_hopeless_trials_are_stopped_and_never_chosen():
    rule = {"method": "ASHA", "minSteps": 10, "reduction": 2}
    world = SweepWorld(sweep(earlyStopping=rule, parallelism=4))
    await world.live()
    told = {entry["name"]: entry["state"] for entry in world.status["trials"]}
    assert told[BEST] == "Published"
    assert list(told.values()).count("Pruned") == 3
    assert world.status["counts"]["pruned"] >= 2
    assert world.status["spent"]["tokens"] < 4 * 3000
    stopped = [text for reason, text in world.recorder.events if reason == "TrialPruned"]
    assert any(" at step 10, " in text for text in stopped)


HALVING = {"method": "Halving", "minSteps": 10, "reduction": 2}


async def test_trials_wait_at_a_rung_for_all_others_and_the_best_go_on_from_there():
    world = SweepWorld(sweep(earlyStopping=HALVING, parallelism=1))
    seen: list[tuple[str, int]] = []
    for _ in range(60):
        await world.reconcile()
        if world.has_ended:
            break
        specs = [job["spec"] for job in world.jobs.values()]
        assert sum(not (spec.get("suspend") or spec.get("prune")) for spec in specs) <= 1
        waiting = [e["name"] for e in world.status["trials"] if e["state"] == "Waiting"]
        seen.append((world.condition("Progressing")["message"], len(waiting)))
        world.work()
    told = {entry["name"]: entry for entry in world.status["trials"]}
    assert {name: (e["state"], e["step"]) for name, e in told.items()} == {
        "rates-t1": ("Pruned", 10),
        "rates-t2": ("Pruned", 20),
        "rates-t3": ("Published", 30),
        "rates-t4": ("Pruned", 10),
    }
    assert world.status["spent"]["tokens"] == 1000 + 2000 + 3000 + 1000
    assert max(num for _, num in seen) == 3
    assert any("2 wait at step 10 " in text for text, _ in seen)


async def test_a_search_by_halving_halves_unless_it_says_otherwise():
    rungs = {"minSteps": 10, "reduction": 2}
    world = SweepWorld(sweep(search="Halving", trials=4, earlyStopping=rungs))
    await world.live()
    assert sorted(e["step"] for e in world.status["trials"]) == [10, 10, 20, 30]


async def test_a_sweep_that_was_suspended_leaves_trials_at_their_rung():
    world = SweepWorld(sweep(earlyStopping=HALVING, parallelism=2))
    for _ in range(2):
        await world.reconcile()
        world.work()
    await world.reconcile()  # two have stopped at the first rung, and two others begin
    assert len(world.jobs) == 4
    world.edit(suspend=True)
    await world.reconcile()
    world.work()
    world.edit(suspend=False)
    await world.reconcile()
    held = {name: job["spec"].get("suspend") for name, job in world.jobs.items()}
    assert held["rates-t1"]
    assert held["rates-t2"]
    await world.live()
    assert world.status["best"]["name"] == BEST
    assert world.status["spent"]["tokens"] <= 1000 + 2000 + 3000 + 2000


async def test_a_trial_that_fails_before_the_rung_holds_nobody_up():
    world = SweepWorld(sweep(earlyStopping=HALVING, parallelism=4))
    await world.reconcile()
    failed = world.jobs["rates-t1"]
    condition = {"type": "Failed", "status": "True", "reason": "OutOfMemory", "message": "m"}
    status = {"phase": "Failed", "conditions": [condition]}
    world.put(("finetunejobs", NAMESPACE, "rates-t1"), {**failed, "status": status})
    await world.live()
    assert world.status["best"]["name"] == BEST


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"durationSeconds": 100}, "budget.durationSeconds of 100 is over"),
        ({"gpuHours": "0.9"}, "budget.gpuHours of 0.9 is used up"),
    ],
)
async def test_a_budget_ends_the_search_and_the_best_of_what_was_trained_is_chosen(budget, words):
    template = {"resources": {"gpusPerNode": 1}}
    body = sweep(template=template, parallelism=1)
    world = SweepWorld(body)
    for _ in range(6):
        await world.reconcile()
        world.work()
    trained = [name for name, job in world.jobs.items() if job["status"].get("selection")]
    assert trained
    world.edit(budget=budget)
    world.clock.advance(3600)
    await world.reconcile()
    assert (
        words in world.condition("Progressing")["message"] or world.status["phase"] == "Publishing"
    )
    await world.live()
    assert world.status["best"]["name"] in trained
    assert len(world.jobs) < 4
    assert world.status["phase"] == "Succeeded"


async def test_a_budget_of_trials_bounds_what_is_created():
    world = SweepWorld(sweep(budget={"trials": 2}))
    await world.live()
    assert sorted(world.jobs) == ["rates-t1", "rates-t2"]
    assert world.status["counts"]["total"] == 2


async def test_a_budget_that_leaves_nothing_trained_is_told():
    world = SweepWorld(sweep(budget={"durationSeconds": 60}))
    await world.reconcile()
    world.clock.advance(120)
    await world.reconcile()
    assert world.condition("Failed")["reason"] == "NoTrialTrained"
    assert all(job["spec"].get("prune") for job in world.jobs.values())


async def test_replicates_train_the_best_again_with_other_seeds_and_show_the_spread():
    world = SweepWorld(sweep(replicates=2))
    await world.live()
    again = {name: job for name, job in world.jobs.items() if name in ("rates-t5", "rates-t6")}
    assert len(world.jobs) == 6
    for job in again.values():
        assert job["metadata"]["labels"]["finetune.dev/replicate-of"] == "3"
        assert job["spec"]["hyperparameters"]["learningRate"] == "1e-3"
    assert [job["spec"]["hyperparameters"]["seed"] for job in again.values()] == [47, 48]
    best = world.status["best"]
    assert best["name"] == BEST
    assert float(best["score"]) < float(best["mean"])
    assert float(best["spread"]) > 0
    assert world.status["trials"][-1]["replicateOf"] == BEST


async def test_a_trial_that_a_person_promotes_is_the_one():
    world = SweepWorld()
    await world.reconcile()
    for _ in range(4):
        world.work()
    world.edit_job("rates-t1", holdAfter=None)
    await world.reconcile()
    await world.live()
    assert world.status["best"]["name"] == "rates-t1"
    assert world.jobs["rates-t2"]["spec"]["prune"] is True
    assert len(world.jobs) == 2


async def test_a_trial_that_somebody_deletes_is_not_made_again():
    world = SweepWorld()
    await world.reconcile()
    del world.cluster.objects["finetunejobs", NAMESPACE, "rates-t2"]
    await world.live()
    assert sorted(world.jobs) == ["rates-t1", BEST, "rates-t4"]
    told = {entry["name"]: entry["state"] for entry in world.status["trials"]}
    assert told["rates-t2"] == "Deleted"
    assert world.status["best"]["name"] == BEST


async def test_a_cache_that_is_behind_the_status_is_asked_live():
    world = SweepWorld(sweep(parallelism=4))
    await world.reconcile()
    world.caches.finetunejobs.discard(world.caches.finetunejobs.get(NAMESPACE, "rates-t2"))
    world._refresh = lambda: None
    await world.reconcile()
    assert world.caches.finetunejobs.get(NAMESPACE, "rates-t2") is not None
    assert len(world.jobs) == 4
    assert world.status["counts"]["failed"] == 0


async def test_a_chosen_trial_that_is_deleted_ends_the_sweep():
    world = SweepWorld()
    while world.status.get("phase") != "Publishing":
        await world.reconcile()
        if world.status.get("phase") != "Publishing":
            world.work()
    del world.cluster.objects["finetunejobs", NAMESPACE, BEST]
    await world.reconcile()
    failed = world.condition("Failed")
    assert failed["reason"] == "TrialDeleted"
    assert BEST in failed["message"]


async def test_a_finished_sweep_is_deleted_after_its_time():
    world = SweepWorld(sweep(ttlSecondsAfterFinished=600))
    await world.live()
    assert await world.reconcile() == RequeueAfter(600.0)
    world.clock.advance(601)
    await world.reconcile()
    assert ("finetunesweeps", *KEY) not in world.cluster.objects


async def test_what_refuses_a_trial_is_told_and_asked_again():
    world = SweepWorld()
    world.client.faults.append(Forbidden("exceeded quota: jobs", status=403))
    result = await world.reconcile()
    assert result == RequeueAfter(2.0)
    progressing = world.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "Forbidden")
    assert "exceeded quota: jobs" in progressing["message"]
    world.clock.advance(3)
    await world.reconcile()
    assert len(world.jobs) == 2
    assert world.condition("Progressing")["status"] == "True"


async def test_a_job_that_the_server_finds_invalid_ends_the_sweep():
    world = SweepWorld()
    world.client.faults.append(Invalid("spec.model: bad", status=422, reason="Invalid"))
    await world.reconcile()
    assert world.condition("Failed")["reason"] == "InvalidTrial"


async def test_a_name_that_somebody_else_has_is_told():
    world = SweepWorld()
    other = {"metadata": {"name": "rates-t1", "namespace": NAMESPACE}, "spec": {}}
    world.put(("finetunejobs", NAMESPACE, "rates-t1"), other)
    await world.reconcile()
    progressing = world.condition("Progressing")
    assert progressing["reason"] == "NameTaken"
    assert "rates-t1 " in progressing["message"]


async def test_the_end_of_a_trial_is_told_once_also_where_the_status_has_no_room_for_it():
    parameters = [{"path": RATE, "logUniform": {"min": "1e-5", "max": "1e-2"}}]
    rule = {"method": "ASHA", "minSteps": 10, "reduction": 2}
    spec = {"search": "Random", "trials": 60, "parallelism": 20, "parameters": parameters}
    world = SweepWorld(sweep(earlyStopping=rule, **spec))
    await world.live()
    told = [text.split()[0] for reason, text in world.recorder.events if reason == "TrialPruned"]
    assert len(told) > 20
    assert len(told) == len(set(told))
    created = [text for reason, text in world.recorder.events if reason == "TrialsCreated"]
    assert len(created) == 1, "one write for all of them"
    assert created[0].endswith("rates-t8 and 12 more; 40 follow as there is room")


async def test_sweeps_and_their_trials_are_counted_for_prometheus():
    registry = CollectorRegistry()
    world = SweepWorld()
    SweepMetrics(world.caches.sweeps, registry)
    await world.reconcile()

    def value(name, **labels):
        return registry.get_sample_value(name, {"namespace": NAMESPACE, **labels})

    assert value("finetune_sweeps", phase="Searching") == 1
    assert value("finetune_sweep_trials", state="running") == 2
    await world.live()
    assert value("finetune_sweeps", phase="Succeeded") == 1
    assert value("finetune_sweep_trials", state="trained") == 4


@pytest.mark.slow
async def test_the_status_of_a_hundred_trials_of_five_parameters_stays_small():
    world = SweepWorld(sweep(**HUNDRED_TRIALS), config=CONFIG)
    await world.live()
    assert world.status["progress"] == "100/100"
    assert len(world.status["trials"]) == 48
    assert world.status["best"]["name"] in {entry["name"] for entry in world.status["trials"]}
    assert len(json.dumps(world.status)) < 20_000
