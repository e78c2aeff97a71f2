"""Trials that somebody deletes, takes away, forges or changes behind the sweep's back."""

from __future__ import annotations

import copy
from decimal import Decimal

import pytest

from finetune_operator.kube.api.errors import Forbidden, Invalid
from finetune_operator.kube.queue.workers import Retry
from kit.builders.sweeps import KEY, NAMESPACE, RATE, UID, SweepWorld, sweep
from unit.operator.finetunesweep.test_sweep_troubles import HALVING, put_status

GPUS = {"template": {"resources": {"gpusPerNode": 1}}}
RATES = {"path": RATE, "logUniform": {"min": "1e-5", "max": "1e-2"}}
HOUR = 3600


def delete(world: SweepWorld, name: str) -> dict:
    return world.cluster.objects.pop(("finetunejobs", NAMESPACE, name))


def put(world: SweepWorld, job: dict, **metadata: object) -> None:
    body = {**job, "metadata": {**job["metadata"], **metadata}}
    world.put(("finetunejobs", NAMESPACE, body["metadata"]["name"]), body)


def states(world: SweepWorld) -> dict[str, str]:
    return {entry["name"]: entry["state"] for entry in world.status["trials"]}


# ---- the budget ----------------------------------------------------------------------------------


async def test_a_trial_that_is_deleted_while_no_operator_runs_stays_counted_as_it_was_told():
    body = sweep(search="Random", trials=50, parallelism=2, parameters=[RATES], **GPUS)
    world = SweepWorld(body)
    await world.reconcile()
    for _ in range(6):
        world.work()
        await world.reconcile()
    spent = Decimal(world.status["spent"]["gpuHours"])
    assert spent >= 1
    for name in ("rates-t1", "rates-t2"):
        delete(world, name)
    world.start()
    await world.reconcile()
    assert world.status["deleted"]["numbers"] == [1, 2]
    assert Decimal(world.status["deleted"]["gpuHours"]) >= 1
    assert Decimal(world.status["spent"]["gpuHours"]) >= spent
    assert world.status["deleted"]["tokens"] == 6000
    world.edit(budget={"gpuHours": "1"})
    await world.live()
    assert "rates-t1" not in world.jobs


async def test_a_running_trial_that_is_deleted_keeps_its_hours_in_the_budget():
    body = sweep(search="Random", trials=50, parallelism=2, parameters=[RATES], **GPUS)
    world = SweepWorld({**body, "spec": {**body["spec"], "budget": {"gpuHours": "5"}}})
    for _ in range(2):
        await world.reconcile()
        world.work()
    await world.reconcile()
    world.clock.advance(2 * HOUR)
    delete(world, "rates-t2")
    await world.reconcile()
    assert 2 <= Decimal(world.status["deleted"]["gpuHours"]) < Decimal("2.1")
    world.clock.advance(1 * HOUR)
    await world.reconcile()
    assert Decimal(world.status["spent"]["gpuHours"]) >= 5
    assert world.has_ended


async def test_no_more_trials_are_created_than_asked_for_however_many_are_deleted():
    world = SweepWorld(sweep(search="Random", trials=5, parallelism=2, parameters=[RATES]))
    for _ in range(20):
        await world.reconcile()
        if world.has_ended:
            break
        for name in list(world.jobs):
            delete(world, name)
        world.start()
    assert world.created == [f"rates-t{number}" for number in range(1, 6)]
    assert world.condition("Failed")["reason"] == "NoTrialTrained"
    assert set(states(world).values()) == {"Deleted"}


async def test_no_more_replicates_are_created_than_asked_for_however_many_are_deleted():
    world = SweepWorld(sweep(replicates=2))
    for _ in range(40):
        await world.reconcile()
        if world.has_ended:
            break
        for name in [each for each in world.jobs if each > "rates-t4"]:
            delete(world, name)
            world.start()
        world.work()
    assert world.created == [f"rates-t{number}" for number in range(1, 7)]
    assert world.status["deleted"]["numbers"] == world.status["deleted"]["replicates"] == [5, 6]
    assert world.status["phase"] == "Succeeded"
    assert world.status["best"]["name"] == "rates-t3"


async def test_a_number_is_not_given_again_while_no_status_can_be_written():
    world = SweepWorld(sweep(search="Random", trials=3, parallelism=1, parameters=[RATES]))
    too_long = Invalid("status.x: Too long", status=422, reason="Invalid")
    for _ in range(8):
        # a creation where there is room, a live read, then the status that nobody takes
        world._refresh()
        apply_status = world.client.apply_status

        async def refuse(*args, **options):
            raise too_long

        world.client.apply_status = refuse
        await world.reconcile()
        world.client.apply_status = apply_status
        for name in list(world.jobs):
            delete(world, name)
    assert world.created == ["rates-t1", "rates-t2", "rates-t3"]
    assert world.status == {}


# ---- the search ----------------------------------------------------------------------------------


async def test_a_deleted_trial_is_told_and_counts_as_failed():
    world = SweepWorld(sweep(parallelism=4))
    await world.reconcile()
    delete(world, "rates-t2")
    for _ in range(2):
        await world.reconcile()
    (entry,) = [entry for entry in world.status["trials"] if entry["name"] == "rates-t2"]
    assert (entry["state"], entry["reason"]) == ("Deleted", "TrialDeleted")
    assert world.status["counts"]["failed"] == 1
    told = [text for reason, text in world.recorder.events if reason == "TrialDeleted"]
    assert len(told) == 1
    assert told[0].startswith("rates-t2: ")
    assert "3 under way, 1 deleted" in world.condition("Progressing")["message"]


async def test_the_best_trial_cannot_win_once_it_is_deleted():
    world = SweepWorld(sweep(parallelism=3))
    while world.status.get("progress") != "3/4":
        await world.reconcile()
        world.work()
    delete(world, "rates-t3")
    await world.live()
    assert world.status["best"]["name"] in ("rates-t2", "rates-t4")
    assert states(world)["rates-t3"] == "Deleted"
    assert world.status["phase"] == "Succeeded"


@pytest.mark.parametrize("victim", ["rates-t1", "rates-t2", "rates-t3", "rates-t4"])
@pytest.mark.parametrize("moment", [0, 1, 2, 3])
async def test_halving_goes_on_when_a_trial_is_deleted(victim, moment):
    world = SweepWorld(sweep(earlyStopping=HALVING, parallelism=4))
    for _ in range(moment):
        await world.reconcile()
        world.work()
    await world.reconcile()
    is_last = not any(
        name != victim and not job["spec"].get("prune") for name, job in world.jobs.items()
    )
    delete(world, victim)
    await world.live()
    assert world.status["phase"] == ("Failed" if is_last else "Succeeded")
    assert is_last == (victim == "rates-t3" and moment >= 2)
    if is_last:
        assert world.status["reason"] == "NoTrialTrained"
        assert "rates-t3" in world.condition("Failed")["message"]
    else:
        assert world.status["best"]["name"] != victim
    assert world.created == ["rates-t1", "rates-t2", "rates-t3", "rates-t4"]


async def test_a_trial_that_comes_back_is_ended_and_none_of_the_sweep_any_more():
    world = SweepWorld(sweep(parallelism=4))
    await world.reconcile()
    stolen = delete(world, "rates-t3")
    await world.reconcile()
    put(world, stolen)
    await world.reconcile()
    assert world.jobs["rates-t3"]["spec"]["prune"] is True
    await world.live()
    assert states(world)["rates-t3"] == "Deleted"
    assert world.status["best"]["name"] != "rates-t3"
    assert world.status["counts"]["failed"] == 1


# ---- what others put among the trials ------------------------------------------------------------


def owner(uid: str = UID) -> list[dict]:
    return [{"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneSweep", "name": "rates",
             "uid": uid, "controller": True}]  # fmt: skip


@pytest.mark.parametrize("name", ["rates-t2", "rates-t9", "rates-t99999", "rates-t02", "mine"])
async def test_a_foreign_job_that_names_the_sweep_as_its_owner_is_left_alone(name):
    world = SweepWorld(sweep(parallelism=1, trials=2))
    await world.reconcile()
    foreign = copy.deepcopy(world.jobs["rates-t1"])
    foreign["spec"]["dataset"] = {"sources": [{"uri": "s3://team-b/secret.jsonl"}]}
    del foreign["spec"]["holdAfter"]
    labels = {"finetune.dev/sweep": "rates", "finetune.dev/trial": name.rpartition("-t")[2]}
    put(world, foreign, name=name, uid="foreign", labels=labels, ownerReferences=owner())
    before = world.jobs[name]["spec"]
    for _ in range(8):
        await world.reconcile()
        world.work()
    assert world.jobs[name]["spec"] == before
    if name == "rates-t2":
        assert world.condition("Progressing")["reason"] == "NameTaken"
        delete(world, name)
        world.clock.advance(60)
    await world.live()
    assert world.status["counts"]["total"] == 2
    assert sorted(states(world)) == ["rates-t1", "rates-t2"]


async def test_a_job_that_takes_the_place_of_a_trial_is_not_changed_and_not_chosen():
    world = SweepWorld(sweep(parallelism=4))
    await world.reconcile()
    job = delete(world, "rates-t3")
    job = copy.deepcopy(job)
    del job["spec"]["holdAfter"]
    put(world, job, uid="another")
    await world.reconcile()
    assert states(world)["rates-t3"] == "Deleted"
    await world.live()
    assert world.status["best"]["name"] != "rates-t3"


@pytest.mark.parametrize("uid", ["another-sweep", ""])
async def test_a_trial_of_another_owner_is_no_trial(uid):
    world = SweepWorld(sweep(parallelism=4))
    await world.reconcile()
    put(world, world.jobs["rates-t2"], ownerReferences=owner(uid))
    await world.live()
    assert states(world)["rates-t2"] == "Deleted"
    assert not world.jobs["rates-t2"]["spec"].get("prune")


async def test_a_label_makes_no_replicate_and_takes_none_away():
    world = SweepWorld(sweep(replicates=2, parallelism=4))
    await world.reconcile()
    put(world, world.jobs["rates-t1"], labels={"finetune.dev/replicate-of": "3"})
    while "rates-t5" not in world.jobs:
        await world.reconcile()
        world.work()
    put(world, world.jobs["rates-t5"], labels={})
    await world.live()
    assert sorted(world.jobs) == [f"rates-t{number}" for number in range(1, 7)]
    told = {entry["name"]: entry.get("replicateOf") for entry in world.status["trials"]}
    assert (told["rates-t1"], told["rates-t5"], told["rates-t6"]) == (None, "rates-t3", "rates-t3")


# ---- changes over a state that has gone ----------------------------------------------------------


def meanwhile(world: SweepWorld, change, *, times: int = 1) -> None:
    """Have somebody change something between the plan and each of the next patches."""
    patch = world.client.merge_patch
    left = [times]

    async def late(resource, namespace, name, body, **options):
        if left[0] > 0:
            left[0] -= 1
            change(name)
        return await patch(resource, namespace, name, body, **options)

    world.client.merge_patch = late


async def test_a_trial_that_catches_up_after_the_plan_is_judged_by_what_it_is_now():
    world = SweepWorld(sweep(earlyStopping=HALVING, parallelism=4))
    await world.reconcile()
    world.work()

    def catch_up(name):
        curve = {"curve": [{"step": 10, "loss": "0.001"}]}
        put_status(world, "rates-t1", validation=curve)
        put(world, world.jobs["rates-t4"])

    # The plan ends t1 and t4, the worst of four. Meanwhile t1 has become the best.
    meanwhile(world, catch_up)
    await world.reconcile()
    pruned = {name for name, job in world.jobs.items() if job["spec"].get("prune")}
    assert "rates-t1" not in pruned
    assert len(pruned) == 2


async def test_a_trial_that_somebody_writes_to_all_the_time_is_tried_again_later():
    world = SweepWorld(sweep(parallelism=2))
    await world.reconcile()
    world.edit(suspend=True)
    meanwhile(world, lambda name: put(world, world.jobs[name]), times=100)
    calls = world.client.num_calls
    assert isinstance(await world.reconcile(), Retry)
    assert world.client.num_calls - calls < 20
    del world.client.merge_patch
    await world.reconcile()
    assert [job["spec"]["suspend"] for job in world.jobs.values()] == [True, True]


async def test_a_trial_that_was_replaced_after_the_plan_is_not_changed():
    world = SweepWorld(sweep(parallelism=2))
    await world.reconcile()
    world.edit(suspend=True)

    def replace(name):
        put(world, delete(world, name), uid="another")

    meanwhile(world, replace)
    await world.reconcile()
    assert (
        "suspend" not in world.jobs["rates-t1"]["spec"]
        or not (world.jobs["rates-t1"]["spec"]["suspend"])
    )
    assert world.jobs["rates-t2"]["spec"]["suspend"] is True


async def test_a_trial_that_cannot_be_changed_does_not_let_the_others_run_on():
    world = SweepWorld(sweep(parallelism=4, budget={"durationSeconds": 60}))
    await world.reconcile()
    world.clock.advance(120)
    for _ in range(2):
        world.client.faults.append(Forbidden("rates-t1: no", status=403))
        assert isinstance(await world.reconcile(), Retry)
    pruned = {name for name, job in world.jobs.items() if job["spec"].get("prune")}
    assert pruned == {"rates-t2", "rates-t3", "rates-t4"}
    told = [reason for reason, _ in world.recorder.events]
    assert told.count("TrialNotChanged") == 1


async def test_trials_are_ended_though_no_status_can_be_written():
    world = SweepWorld(sweep(parallelism=4, budget={"durationSeconds": 60}))
    await world.reconcile()
    world.clock.advance(120)
    world.client.faults.extend([None] * 4 + [Invalid("Too long", status=422, reason="Invalid")])
    assert isinstance(await world.reconcile(), Retry)
    assert all(job["spec"].get("prune") for job in world.jobs.values())
    assert world.caches.sweeps.informer.store.get(*KEY) is not None
