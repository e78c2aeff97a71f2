"""What befalls a sweep at the worst moment: people, races, refusals, and waits without an end."""

from __future__ import annotations

import pytest

from finetune_operator.finetunesweep import acceptance
from finetune_operator.kube.api.errors import (
    Forbidden,
    Invalid,
    NotFound,
    ObjectNotFound,
    ServerUnavailable,
)
from finetune_operator.kube.queue.workers import RequeueAfter, Retry
from kit.builders.jobs import CONFIG
from kit.builders.sweeps import KEY, NAMESPACE, RATE, SweepWorld, loss_of, sweep

HALVING = {"method": "Halving", "minSteps": 10, "reduction": 2}


def put_status(world: SweepWorld, name: str, **status) -> None:
    job = world.jobs[name]
    merged = {**(job.get("status") or {}), **status}
    world.put(("finetunejobs", NAMESPACE, name), {**job, "status": merged})


def relabel(world: SweepWorld, name: str, **labels: str | None) -> None:
    job = world.jobs[name]
    changed = {**job["metadata"]["labels"]}
    for label, value in labels.items():
        changed[f"finetune.dev/{label}"] = value
    kept = {label: value for label, value in changed.items() if value is not None}
    world.put(
        ("finetunejobs", NAMESPACE, name), {**job, "metadata": {**job["metadata"], "labels": kept}}
    )


def fail(world: SweepWorld, name: str, reason: str = "OutOfMemory") -> None:
    put_status(world, name, **world._ended({}, "Failed", "Failed", reason))


# ---- loops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [{"sweep": None}, {"sweep": "other"}, {"trial": None}, {"trial": "7"}, {"replicate-of": "1"}],
)
async def test_labels_that_somebody_changes_alter_nothing_of_a_trial(labels):
    world = SweepWorld(sweep(parallelism=4))
    await world.reconcile()
    relabel(world, "rates-t2", **labels)
    before, calls = world.status, world.client.num_calls
    await world.reconcile()
    assert world.client.num_calls == calls
    assert world.status == before
    await world.live()
    assert world.status["best"]["name"] == "rates-t3"
    assert world.status["counts"]["failed"] == 0
    assert world.created == ["rates-t1", "rates-t2", "rates-t3", "rates-t4"]


async def test_a_trial_that_loses_its_owner_is_told_as_gone_and_not_asked_for_for_ever():
    world = SweepWorld(sweep(parallelism=4))
    await world.reconcile()
    job = world.jobs["rates-t2"]
    stolen = {**job["metadata"], "ownerReferences": []}
    world.put(("finetunejobs", NAMESPACE, "rates-t2"), {**job, "metadata": stolen})
    calls = world.client.num_calls
    await world.reconcile()
    assert world.client.num_calls - calls <= 2
    told = {entry["name"]: entry["state"] for entry in world.status["trials"]}
    assert told["rates-t2"] == "Deleted"
    calls = world.client.num_calls
    await world.reconcile()
    assert world.client.num_calls == calls
    await world.live()
    assert not world.jobs["rates-t2"]["spec"].get("prune"), "it is somebody else's"


async def test_a_copy_of_a_trial_that_kept_its_labels_is_none():
    world = SweepWorld(sweep(parallelism=4))
    await world.reconcile()
    job = world.jobs["rates-t2"]
    metadata = {**job["metadata"], "name": "mine", "uid": "another"}
    world.put(("finetunejobs", NAMESPACE, "mine"), {**job, "metadata": metadata})
    await world.reconcile()
    assert [entry["name"] for entry in world.status["trials"]] == list(world.jobs)[:4]
    assert world.status["counts"]["created"] == 4


async def test_a_trial_whose_deletion_takes_long_holds_nobody_up():
    world = SweepWorld(sweep(parallelism=1))
    await world.reconcile()
    job = world.jobs["rates-t1"]
    metadata = {**job["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    world.put(("finetunejobs", NAMESPACE, "rates-t1"), {**job, "metadata": metadata})
    await world.reconcile()
    assert list(world.jobs) == ["rates-t1", "rates-t2"]


async def test_a_sweep_that_is_resumed_before_its_trials_have_stopped_leaves_them_at_their_rung():
    world = SweepWorld(sweep(earlyStopping=HALVING, parallelism=2))
    await world.reconcile()
    world.work()  # both have come to the rung, and run on until they are stopped
    world.edit(suspend=True)
    await world.reconcile()
    world.edit(suspend=False)
    calls = world.client.num_calls
    await world.reconcile()
    assert world.client.num_calls - calls <= 2
    assert world.jobs["rates-t1"]["spec"]["suspend"] is True
    await world.live()
    assert world.status["phase"] == "Succeeded"


# ---- what is chosen ------------------------------------------------------------------------------


async def test_a_trial_that_ends_as_it_is_to_wait_is_evaluated_when_the_budget_is_over():
    world = SweepWorld(sweep(earlyStopping={**HALVING, "minSteps": 30}, parallelism=1))
    for _ in range(3):
        await world.reconcile()
        world.work()
    await world.reconcile()
    assert world.jobs["rates-t1"]["spec"]["suspend"] is True
    curve = world.jobs["rates-t1"]["status"]["validation"]["curve"]
    put_status(
        world,
        "rates-t1",
        stages=[{"name": "train", "completionTime": "2026-01-01T00:00:00Z"}],
        selection={"step": 30, "validationLoss": curve[-1]["loss"]},
        phase="Suspended",
    )
    world.edit(budget={"durationSeconds": 1})
    await world.reconcile()
    assert "holdAfter" not in world.jobs["rates-t1"]["spec"]
    assert world.jobs["rates-t1"]["spec"]["suspend"] is False
    await world.live()
    assert world.status["phase"] == "Succeeded"


async def test_a_trial_that_a_person_chooses_at_its_rung_goes_on():
    world = SweepWorld(sweep(earlyStopping=HALVING, parallelism=1))
    await world.reconcile()
    world.work()
    await world.reconcile()
    assert world.jobs["rates-t1"]["spec"]["suspend"] is True
    world.edit_job("rates-t1", holdAfter=None)
    await world.live()
    assert world.status["best"]["name"] == "rates-t1"
    assert world.status["phase"] == "Succeeded"


async def test_to_let_a_trial_go_that_was_stopped_before_its_end_chooses_nothing():
    world = SweepWorld()
    await world.reconcile()
    world.edit_job("rates-t1", prune=True)
    world.work()
    world.edit_job("rates-t1", holdAfter=None)
    await world.live()
    assert world.status["best"]["name"] == "rates-t3"
    assert world.status["phase"] == "Succeeded"


async def test_to_let_a_trial_go_that_failed_in_training_chooses_nothing():
    world = SweepWorld()
    await world.reconcile()
    over = [{"name": "train", "completionTime": "2026-01-01T00:00:00Z"}]
    put_status(world, "rates-t1", stages=over, lastFailure={"stage": "train"})
    fail(world, "rates-t1")
    world.edit_job("rates-t1", holdAfter=None)
    await world.live()
    assert world.status["best"]["name"] == "rates-t3"


async def test_a_trial_that_appears_after_the_end_is_ended_too():
    world = SweepWorld(sweep(parallelism=1, budget={"durationSeconds": 30}))
    await world.reconcile()
    late = world.cluster.objects.pop(("finetunejobs", NAMESPACE, "rates-t1"))
    world.clock.advance(60)
    await world.reconcile()
    assert world.status["phase"] == "Failed"
    end = world.status
    world.put(("finetunejobs", NAMESPACE, "rates-t1"), late)
    await world.reconcile()
    assert world.jobs["rates-t1"]["spec"]["prune"] is True
    assert world.status == end


# ---- failures ------------------------------------------------------------------------------------


async def test_three_that_fail_at_once_do_not_end_a_fourth_that_trains():
    world = SweepWorld(sweep(parallelism=4))
    await world.reconcile()
    for name in ("rates-t1", "rates-t2", "rates-t4"):
        fail(world, name)
    put_status(world, "rates-t3", phase="Training")
    await world.reconcile()
    assert not world.has_ended
    assert not world.jobs["rates-t3"]["spec"].get("prune")
    await world.live()
    assert world.status["phase"] == "Succeeded"


async def test_three_that_fail_while_nothing_trains_end_the_sweep_once_the_last_has_failed_too():
    world = SweepWorld(sweep(parallelism=4))
    await world.reconcile()
    for name in ("rates-t1", "rates-t2", "rates-t4"):
        fail(world, name)
    put_status(world, "rates-t3", phase="Training")
    await world.reconcile()
    fail(world, "rates-t3")
    await world.reconcile()
    assert world.condition("Failed")["reason"] == "NoTrialTrained"


async def at_the_rung_beside_three_without_a_score(trials: int) -> SweepWorld:
    """Have one trial wait at step 20, and three others end before it, of which none is scored."""

    def scores(job):
        has_one = job["metadata"]["name"] == "rates-t1"
        return {"metric": "exactMatch", "value": "0.9"} if has_one else {}

    parameters = [{"path": RATE, "values": ["1e-5", "1e-4", "1e-3", "1e-2", "1e-1"]}]
    rule = {**HALVING, "minSteps": 20}
    spec = {"search": "Random", "trials": trials, "parallelism": 1, "parameters": parameters}
    world = SweepWorld(sweep(objective={}, earlyStopping=rule, **spec), scores=scores)
    await world.reconcile()
    put_status(world, "rates-t1", stages=[{"name": "train"}])
    for _ in range(2):
        world.work()
    await world.reconcile()
    world.work()
    assert world.jobs["rates-t1"]["status"]["phase"] == "Suspended"
    for name in ("rates-t2", "rates-t3", "rates-t4"):
        await world.reconcile()
        points = [{"step": step, "loss": "9"} for step in (3, 6, 9)]
        put_status(world, name, validation={"curve": points})
        world.work()
    return world


async def test_one_that_waits_at_a_rung_for_trials_that_are_begun_no_more_is_not_waited_for():
    world = await at_the_rung_beside_three_without_a_score(trials=5)
    await world.live(moments=5)
    assert world.condition("Failed")["reason"] == "NoTrialTrained"
    assert len(world.jobs) == 4
    world.work()
    await world.reconcile()
    assert {job["status"]["phase"] for job in world.jobs.values()} == {"Pruned"}


async def test_one_that_waits_at_a_rung_goes_on_once_the_last_has_come_though_none_has_a_score():
    world = await at_the_rung_beside_three_without_a_score(trials=4)
    await world.live()
    assert world.status["phase"] == "Succeeded"
    assert world.status["best"]["name"] == "rates-t1"


async def test_one_that_was_suspended_beside_three_that_failed_goes_on_with_its_sweep():
    world = SweepWorld(sweep(earlyStopping={**HALVING, "minSteps": 20}, parallelism=4))
    await world.reconcile()
    for name in ("rates-t1", "rates-t2", "rates-t4"):
        fail(world, name)
    put_status(world, "rates-t3", phase="Training", stages=[{"name": "train"}])
    world.edit(suspend=True)
    await world.reconcile()
    world.work()
    assert world.jobs["rates-t3"]["status"]["phase"] == "Suspended"
    world.edit(suspend=False)
    await world.live()
    assert world.status["phase"] == "Succeeded"


async def test_a_diverged_trial_holds_nobody_up_at_a_rung():
    def losses(job, step):
        return float("nan") if job["metadata"]["name"] == "rates-t1" else loss_of(job, step)

    world = SweepWorld(sweep(earlyStopping=HALVING, parallelism=4), losses=losses)
    await world.reconcile()
    world.work()
    await world.reconcile()
    assert world.jobs["rates-t1"]["spec"]["prune"] is True
    await world.live()
    assert world.status["best"]["name"] == "rates-t3"


# ---- 404s ----------------------------------------------------------------------------------------

NOT_SERVED = NotFound("create", status=404, message="404 page not found")
NO_NAMESPACE = ObjectNotFound(
    "create", status=404, reason="NotFound", message='namespaces "team-a" not found'
)


@pytest.mark.parametrize("answer", [NOT_SERVED, NO_NAMESPACE])
async def test_a_trial_that_is_answered_by_404_is_told_and_tried_again(answer):
    world = SweepWorld(sweep(parallelism=1))
    world.client.faults.append(answer)
    result = await world.reconcile()
    assert isinstance(result, RequeueAfter)
    assert result.seconds < 1
    assert world.caches.sweeps.informer.store.get(*KEY) is not None
    assert world.condition("Progressing")["reason"] == "APIServerError"
    assert "APIServerError" in [reason for reason, _ in world.recorder.events]
    world.clock.advance(result.seconds)
    await world.live()
    assert world.status["phase"] == "Succeeded"


@pytest.mark.parametrize("at", ["status", "deletion"])
async def test_a_404_of_a_write_to_a_sweep_that_is_there_is_tried_again(at):
    world = SweepWorld(sweep(parallelism=1, ttlSecondsAfterFinished=0))
    if at == "deletion":
        await world.live()
        world.client.faults.append(NOT_SERVED)
    else:
        world.client.faults.extend([None, NOT_SERVED])
    assert isinstance(await world.reconcile(), Retry)
    assert world.caches.sweeps.informer.store.get(*KEY) is not None
    assert world.recorder.events[-1][0] == "APIServerError"
    if at == "status":
        await world.live()
    await world.reconcile()
    assert ("finetunesweeps", *KEY) not in world.cluster.objects


async def test_a_404_of_the_live_read_itself_drops_no_sweep():
    world = SweepWorld(sweep(parallelism=1))
    world.client.faults.extend([None, NOT_SERVED, NOT_SERVED])
    assert isinstance(await world.reconcile(), Retry)
    assert world.caches.sweeps.informer.store.get(*KEY) is not None


@pytest.mark.parametrize("successor", [None, "another"])
async def test_a_sweep_that_is_gone_or_made_anew_is_dropped_by_a_live_read(successor):
    world = SweepWorld(sweep(parallelism=1))
    world.client.faults.extend([None, NOT_SERVED])
    stored = world.cluster.objects.pop(("finetunesweeps", *KEY))
    world._refresh = lambda: None
    if successor:
        metadata = {**stored["metadata"], "uid": successor}
        world.put(("finetunesweeps", *KEY), {**stored, "metadata": metadata})
    await world.reconcile()
    assert world.caches.sweeps.informer.store.get(*KEY) is None


async def test_a_404_that_is_not_about_the_trial_takes_no_trial_for_deleted():
    world = SweepWorld(sweep(parallelism=2))
    await world.reconcile()
    world.edit(suspend=True)
    world.client.faults.append(NOT_SERVED)
    assert isinstance(await world.reconcile(), Retry)
    await world.reconcile()
    assert [job["spec"]["suspend"] for job in world.jobs.values()] == [True, True]
    world.start()
    world.caches.finetunejobs.discard(world.caches.finetunejobs.get(NAMESPACE, "rates-t2"))
    world._refresh = lambda: None
    world.client.faults.append(NOT_SERVED)
    assert isinstance(await world.reconcile(), Retry)
    assert world.status["counts"]["failed"] == 0


# ---- what is told --------------------------------------------------------------------------------


async def test_a_change_that_is_forbidden_is_told_on_the_sweep():
    world = SweepWorld(sweep(parallelism=1))
    await world.reconcile()
    world.edit(suspend=True)
    world.client.faults.append(Forbidden('cannot patch resource "finetunejobs"', status=403))
    assert isinstance(await world.reconcile(), Retry)
    reason, message = world.recorder.events[-1]
    assert reason == "TrialNotChanged"
    assert "rates-t1 " in message
    assert "suspend: true" in message
    assert 'cannot patch resource "finetunejobs"' in message
    assert "patch on finetunejobs" in message


WEBHOOK = 'failed calling webhook "vjob.kb.io": failed to call webhook: connection refused'


@pytest.mark.parametrize(
    ("answer", "told"),
    [("etcdserver: leader changed", []), (WEBHOOK, ["TrialNotChanged"])],
    ids=["the server is ill for a moment", "a webhook is away"],
)
async def test_an_error_of_the_servers_own_is_no_policy_against_a_change(answer, told):
    world = SweepWorld(sweep(parallelism=1))
    await world.reconcile()
    world.edit(suspend=True)
    num_before = len(world.recorder.events)
    error = ServerUnavailable("patch", status=500, reason="InternalError", message=answer)
    for _ in range(3):
        world.client.faults.append(error)
        assert isinstance(await world.reconcile(), Retry)
    events = world.recorder.events[num_before:]
    assert [reason for reason, _ in events] == told, "once, if at all"
    assert not any("policy" in message or "role" in message for _, message in events)
    await world.reconcile()
    assert world.jobs["rates-t1"]["spec"]["suspend"] is True


async def test_a_trial_that_waits_for_a_person_is_told_with_its_reason():
    world = SweepWorld(sweep(parallelism=1))
    await world.reconcile()
    put_status(world, "rates-t1", phase="AwaitingApproval", reason="ApprovalRequired")
    await world.reconcile()
    assert world.status["trials"][0]["reason"] == "ApprovalRequired"
    told = world.condition("Progressing")["message"]
    assert "rates-t1 " in told
    assert "ApprovalRequired" in told


async def test_since_when_no_trial_can_be_created_is_told_right():
    world = SweepWorld()
    world.client.faults.append(Forbidden("exceeded quota: jobs", status=403))
    await world.reconcile()
    since = world.condition("Progressing")["lastTransitionTime"]
    world.clock.advance(3)
    world.client.faults.append(Forbidden("exceeded quota: jobs", status=403))
    world.edit(parallelism=3)
    await world.reconcile()
    assert world.condition("Progressing")["lastTransitionTime"] == since


async def test_a_spec_that_this_version_cannot_read_leaves_the_phase_as_it_was():
    world = SweepWorld()
    while world.status.get("phase") != "Publishing":
        await world.reconcile()
        world.work()
    world.edit(search="Quantum", parallelism=0)
    await world.reconcile()
    accepted = world.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("Unknown", "InvalidSpec")
    assert (world.status["phase"], world.status["reason"]) == ("Publishing", "InvalidSpec")
    assert 'spec.search: Unsupported value: "Quantum"' in accepted["message"]
    assert "spec.parallelism: Invalid value: 0: " in accepted["message"]


async def test_a_rule_of_jobs_that_came_since_a_sweep_was_accepted_holds_only_others():
    world = SweepWorld()
    await world.reconcile()
    template = {"goal": {"metric": "exactMatch", "overBase": "1"}}
    world.edit(template={**world.sweep["spec"]["template"], **template})
    await world.reconcile()
    assert world.condition("Accepted")["status"] == "True"
    late = SweepWorld(sweep(template=template))
    await late.reconcile()
    accepted = late.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert accepted["message"].startswith("spec.template.goal.overBase: goal.overBase must be")
    assert late.jobs == {}


async def test_what_a_rule_of_the_sweep_refuses_is_told_with_field_and_remedy():
    body = sweep(budget={})
    body["spec"]["template"]["dataset"]["split"] = {"validationPercent": 0}
    world = SweepWorld(body)
    await world.reconcile()
    message = world.condition("Accepted")["message"]
    assert "spec.budget: Invalid value: " in message
    assert "spec.objective: Invalid value: " in message
    assert "set template.dataset.split.validationPercent above 0" in message


async def test_a_hundred_trials_are_checked_once_and_not_before_each_creation(monkeypatch):
    asked = []
    monkeypatch.setattr(acceptance, "find_fault", lambda *of: asked.append(of))
    parameters = [{"path": RATE, "logUniform": {"min": "1e-5", "max": "1e-2"}}]
    spec = {"search": "Random", "trials": 100, "parallelism": 100, "parameters": parameters}
    world = SweepWorld(sweep(**spec), config=CONFIG)
    await world.reconcile()
    assert len(world.jobs) == 100
    assert len(asked) == 1
    assert [reason for reason, _ in world.recorder.events] == ["Accepted", "TrialsCreated"]


async def test_trials_that_the_status_has_no_room_for_cost_no_write_when_nothing_changed():
    parameters = [{"path": RATE, "logUniform": {"min": "1e-5", "max": "1e-2"}}]
    rule = {"method": "ASHA", "minSteps": 10, "reduction": 10}
    spec = {"search": "Random", "trials": 60, "parallelism": 60, "parameters": parameters}
    world = SweepWorld(sweep(earlyStopping=rule, **spec), losses=lambda job, step: 1.0)
    await world.reconcile()
    world.work()
    await world.reconcile()
    version = world.cluster.version
    await world.reconcile()
    assert world.cluster.version == version


async def test_a_trial_that_comes_to_a_rung_as_the_sweep_is_suspended_is_judged_there():
    rule = {"method": "ASHA", "minSteps": 10, "reduction": 2}
    world = SweepWorld(sweep(earlyStopping=rule, parallelism=2))
    await world.reconcile()
    job = world.jobs["rates-t2"]
    world.put(("finetunejobs", NAMESPACE, "rates-t2"), {**job, "status": world._next(job)})
    await world.reconcile()
    world.edit(suspend=True)
    await world.reconcile()
    late = {"curve": [{"step": 10, "loss": "9"}]}
    put_status(world, "rates-t1", phase="Suspended", validation=late)
    await world.reconcile()
    assert world.jobs["rates-t1"]["spec"]["prune"] is True
    assert not world.jobs["rates-t2"]["spec"].get("prune")


async def test_a_status_that_is_refused_stops_no_trial_suspension_or_deletion():
    world = SweepWorld(sweep(parallelism=2, ttlSecondsAfterFinished=30))
    refusal = Invalid("apply", status=422, reason="Invalid", message="status.best.name: Too long")

    async def refuse(*_, **__):
        raise refusal

    world.client.apply_status = refuse
    assert isinstance(await world.reconcile(), Retry)
    assert len(world.jobs) == 2
    world.edit(suspend=True)
    await world.reconcile()
    assert all(each["spec"]["suspend"] for each in world.jobs.values())
    world.edit(suspend=False)
    for _ in range(80):
        await world.reconcile()
        if not world.there_is_a_sweep:
            break
        world.work()
    assert not world.there_is_a_sweep, "it came to its end, and its time to live deleted it"
    assert "StatusRefused" in [reason for reason, _ in world.recorder.events]
    assert [reason for reason, _ in world.recorder.events].count("Published") == 1


@pytest.mark.parametrize("told", ["nan", "inf", "1e99999999", "-1e999", "many", ""])
async def test_what_a_trial_says_of_its_tokens_and_losses_does_not_stop_its_sweep(told):
    """To add ``1e99999999`` up as a whole number takes hours."""
    world = SweepWorld(sweep(parallelism=2))
    await world.reconcile()
    metrics = [{"name": "num_tokens", "value": told, "step": 1}]
    put_status(
        world, "rates-t1", metrics=metrics, validation={"curve": [{"step": 1, "loss": told}]}
    )
    assert not isinstance(await world.reconcile(), Retry)
    assert world.status["spent"]["tokens"] == 0


# ---- what is refused by now ----------------------------------------------------------------------

REMOTE_CODE = {"model": {"uri": "hf://org/model", "trustRemoteCode": True}}


async def refused_since(num_moments: int, **spec) -> SweepWorld:
    """Return a sweep that an operator accepted, and whose template its next one refuses."""
    allowing = CONFIG.model_copy(update={"allow_trust_remote_code": True})
    world = SweepWorld(sweep(template=REMOTE_CODE, **spec), config=allowing)
    await world.reconcile()
    for _ in range(num_moments):
        world.work()
        await world.reconcile()
    world.config = CONFIG
    world.start()
    return world


async def test_a_sweep_whose_template_is_refused_by_now_begins_no_trial_and_ends_with_the_reason():
    world = await refused_since(0, parallelism=1)
    fail(world, "rates-t1")
    await world.live()
    assert world.created == ["rates-t1"]
    assert world.condition("Failed")["reason"] == "RemoteCodeNotAllowed"
    assert "spec.template.model.trustRemoteCode" in world.condition("Failed")["message"]


async def test_what_was_trained_before_its_template_was_refused_is_chosen_from():
    world = await refused_since(5, parallelism=1)
    assert world.created == ["rates-t1", "rates-t2"]
    assert world.jobs["rates-t1"]["status"]["phase"] == "AwaitingSelection"
    world.edit(parallelism=2)
    await world.reconcile()
    assert world.condition("Progressing")["reason"] == "RemoteCodeNotAllowed"
    assert not world.jobs["rates-t2"]["spec"].get("prune"), "it trains on"
    await world.live()
    assert world.created == ["rates-t1", "rates-t2"]
    assert (world.status["phase"], world.status["best"]["name"]) == ("Succeeded", "rates-t2")


async def test_trials_at_a_rung_do_not_wait_for_those_that_are_refused_by_now():
    world = await refused_since(2, parallelism=1, earlyStopping=HALVING)
    await world.live()
    assert len(world.created) < 4
    assert world.condition("Failed")["reason"] == "RemoteCodeNotAllowed"


async def test_a_sweep_whose_trials_all_exist_is_not_held_to_settings_that_changed_since():
    world = await refused_since(0, parallelism=4)
    await world.live()
    assert (world.status["phase"], world.status["best"]["name"]) == ("Succeeded", "rates-t3")
