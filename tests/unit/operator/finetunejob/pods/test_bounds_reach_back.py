"""Bounds of pods hold jobs that an older operator, or another configuration, has accepted."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import ActivateWorkload, PauseJob
from finetune_operator.integrations.kueue.state import FIELD_MANAGER
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONFIG,
    accepted,
    after,
    at,
    child,
    condition,
    job,
    live,
    merged,
    observe,
    pod,
    replace,
    running,
    stages_done,
    succeeded,
    trained,
)
from unit.operator.finetunejob.lifecycle.test_queueing import in_queue
from unit.operator.finetunejob.lifecycle.test_stopping import evaluating, planned, stopped

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


def mount(path):
    return {
        "volumes": [{"name": "mine", "configMap": {"name": "mine"}}],
        "volumeMounts": [{"name": "mine", "mountPath": path}],
    }


HIDING = mount("//etc/finetune/job")
UNLISTED = {"env": [{"name": "TRITON_CACHE_DIR", "value": "/data"}]}
IDENTITY = {"labels": {"aadpodidbinding": "administrators"}}
CODE = mount("/opt/finetune/lib")
OPEN = CONFIG.model_copy(update={"allowed_environment": ["*"], "allowed_labels": ["*"]})


def turned(body, template):
    """Return a job as an operator without these bounds left it."""
    return {**body, "spec": {**body["spec"], "podTemplate": template}}


def prepared():
    return live([stages_done(PREPARE)], accepted(), at(60))[1]


def resting():
    """Return the snapshot of a job in the queue whose Workload the operator has deactivated."""
    known = in_queue("waiting")
    state = replace(known["queue"][TRAIN], is_active=False, deactivated_by=FIELD_MANAGER)
    return {**known, "queue": {TRAIN: state}}


def training(**status):
    return merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running(), **status)}})


@pytest.mark.parametrize(
    ("template", "reason"), [(HIDING, "ReservedName"), (CODE, "MountNotAllowed")]
)
def test_no_stage_of_an_accepted_job_gets_pods_that_are_refused_now(template, reason):
    body = turned(prepared(), template)
    made = plan(observe(body, **stages_done(PREPARE)), at(61), CONFIG)
    assert made.first == ()
    assert made.status["lastFailure"]["reason"] == reason
    assert made.status["dataset"]["digest"]
    failed = condition(made, "Failed")
    assert failed["status"] == "True"
    assert "spec.podTemplate." in failed["message"]
    assert made.status["dataset"]["uri"] in failed["message"]
    assert failed["message"].endswith("finetune retry headlines -n team-a")


@pytest.mark.parametrize(
    ("template", "reason"),
    [(UNLISTED, "EnvironmentNotAllowed"), (IDENTITY, "LabelNotAllowed")],
)
def test_settings_of_today_hold_the_next_stage_until_they_allow_it(template, reason):
    body = turned(prepared(), template)
    done = stages_done(PREPARE)
    made, body = planned(body, done, 61)
    assert made.first == ()
    told = condition(made, "Training")
    assert (told["status"], told["reason"]) == ("False", reason)
    assert "spec.podTemplate." in told["message"]
    assert (body["status"]["phase"], body["status"]["reason"]) == ("Pending", reason)
    assert [(event.reason, event.kind) for event in made.events] == [(reason, "Warning")]
    assert planned(body, done, 62)[0].events == ()
    made = plan(observe(body, **done), at(63), OPEN)
    assert [action.stage for action in made.first] == [TRAIN]


def test_settings_of_today_hold_the_first_stage():
    body = turned(accepted(), UNLISTED)
    del body["status"]["stages"]
    made, body = planned(body, {}, 0)
    assert made.first == ()
    assert condition(made, "DatasetReady")["reason"] == "EnvironmentNotAllowed"
    made = plan(observe(body), at(1), OPEN)
    assert [action.stage for action in made.first] == [PREPARE]


def test_settings_of_today_hold_the_network_of_the_next_stage():
    """Its variables are held to the same list as those of the template."""
    body, done = prepared(), stages_done(PREPARE)
    resources = {**body["spec"]["resources"], "network": {"interface": "net1"}}
    body = {**body, "spec": {**body["spec"], "resources": resources}}
    closed = CONFIG.model_copy(update={"allowed_environment": []})
    made = plan(observe(body, **done), at(61), closed)
    assert made.first == ()
    assert "spec.resources.network.interface: it sets" in condition(made, "Training")["message"]
    made = plan(observe(body, **done), at(62), CONFIG)
    assert [action.stage for action in made.first] == [TRAIN]


@pytest.mark.parametrize(
    ("done", "settings", "next_stage"),
    [
        ((PREPARE, TRAIN), {"allowed_environment": []}, EVALUATE),
        ((PREPARE, TRAIN), {"trainer_environment": {"NCCL_SOCKET_IFNAME": "eth0"}}, EVALUATE),
        ((PREPARE,), {"trainer_environment": {"NCCL_SOCKET_IFNAME": "eth0"}}, TRAIN),
    ],
)
def test_settings_of_the_network_hold_no_stage_that_they_do_not_forbid(done, settings, next_stage):
    """Only training uses the network, and the administrator's variables win there."""
    body = prepared()
    resources = {**body["spec"]["resources"], "network": {"interface": "net1"}}
    body = {**body, "spec": {**body["spec"], "resources": resources}}
    config = CONFIG.model_copy(update=settings)
    made = plan(observe(body, **stages_done(*done)), at(61), config)
    assert [action.stage for action in made.first] == [next_stage]


def test_settings_of_today_hold_a_job_that_is_made_again():
    body = turned(live([training()], prepared(), at(70))[1], UNLISTED)
    gone = {**stages_done(PREPARE), "missing": frozenset({TRAIN})}
    _, body = planned(body, gone, 80)
    made, body = planned(body, gone, 5000)
    assert made.first == ()
    assert (body["status"]["phase"], body["status"]["reason"]) == (
        "Pending",
        "EnvironmentNotAllowed",
    )
    made = plan(observe(body, **gone), at(5001), OPEN)
    assert [action.stage for action in made.first] == [TRAIN]


def test_a_job_that_somebody_holds_is_told_of_settings_once_it_would_go_on():
    """A mistyped setting, mended before, does not show."""
    done = stages_done(PREPARE, TRAIN)
    body = turned(live([done], trained(job(holdAfter="Train")), at(200))[1], UNLISTED)
    made, body = planned(body, done, 300)
    assert body["status"]["phase"] == "AwaitingSelection"
    assert made.events == ()
    chosen = {key: value for key, value in body["spec"].items() if key != "holdAfter"}
    _, body = planned({**body, "spec": chosen}, done, 310)
    assert body["status"]["reason"] == "EnvironmentNotAllowed"
    made = plan(observe(body, **done), at(320), OPEN)
    assert [action.stage for action in made.first] == [EVALUATE]


@pytest.mark.parametrize("template", [HIDING, CODE])
def test_a_job_in_the_queue_is_released_and_keeps_its_data(template):
    snapshot = in_queue("waiting")
    queued = live([snapshot], job(queueName="team-a"), at(80))[1]
    assert queued["status"]["phase"] == "Queued"
    body = turned(queued, template)
    made = plan(observe(body, **snapshot), at(90), CONFIG)
    assert made.status["phase"] == "Failed"
    assert made.status["dataset"] == queued["status"]["dataset"]
    body = after(body, made)
    assert is_terminal(body["status"])
    released = plan(observe(body, **snapshot), at(91), CONFIG)
    assert [type(action) for action in released.then] == [ActivateWorkload]
    assert not released.then[0].active


def test_settings_of_today_take_a_job_out_of_the_queue_and_back():
    waits, rests = in_queue("waiting"), resting()
    queued = live([waits], job(queueName="team-a"), at(80))[1]
    made, body = planned(turned(queued, UNLISTED), waits, 90)
    (stop,) = made.then
    assert (type(stop), stop.active) == (ActivateWorkload, False)
    assert (body["status"]["phase"], body["status"]["reason"]) == (
        "Pending",
        "EnvironmentNotAllowed",
    )
    assert body["status"]["dataset"] == queued["status"]["dataset"]
    assert [event.reason for event in made.events] == ["EnvironmentNotAllowed"]
    made, body = planned(body, rests, 100)
    assert (made.then, made.events) == ((), ())
    (wake,) = plan(observe(body, **rests), at(110), OPEN).then
    assert (type(wake), wake.active) == (ActivateWorkload, True)
    body = after(body, plan(observe(body, **waits), at(120), OPEN))
    assert body["status"]["phase"] == "Queued"


def test_suspending_and_resuming_a_job_gets_it_past_no_setting():
    queued = live([in_queue("waiting")], job(queueName="team-a"), at(80))[1]
    rests = resting()
    body = planned(turned(queued, UNLISTED), in_queue("waiting"), 90)[1]
    for at_second, suspend in ((100, True), (110, False), (120, False), (130, True), (140, False)):
        body = {**body, "spec": {**body["spec"], "suspend": suspend}}
        made, body = planned(body, rests, at_second)
        assert made.then == ()
    assert body["status"]["reason"] == "EnvironmentNotAllowed"


@pytest.mark.parametrize("template", [HIDING, CODE])
def test_pods_that_read_other_files_than_the_operators_are_stopped(template):
    body = live([training()], prepared(), at(70))[1]
    made = plan(observe(turned(body, template), **training()), at(80), CONFIG)
    assert made.status["phase"] == "Failed"
    assert [type(action) for action in made.then] == [PauseJob]
    message = condition(made, "Failed")["message"]
    assert "s3://models/runs/team-a/headlines/uid-of-the-job" in message


@pytest.mark.parametrize("template", [UNLISTED, IDENTITY])
def test_a_list_that_is_shortened_later_does_not_stop_what_runs(template):
    body = turned(live([training()], prepared(), at(70))[1], template)
    made = plan(observe(body, **training()), at(80), CONFIG)
    assert condition(made, "Failed") is None
    assert made.then == ()
    paused = training(suspend=True)
    paused["jobs"][TRAIN]["status"] |= {"startTime": "2026-11-24T12:01:00Z"}
    made = plan(observe(body, **paused), at(90), CONFIG)
    assert condition(made, "Failed") is None


@pytest.mark.parametrize("template", [HIDING, CODE])
def test_a_version_that_a_pod_has_told_is_published(template):
    """It lies in storage; the Job controller needs a moment to count the pod."""
    body, known = evaluating()
    told = merged(known, {"pods": {EVALUATE: (succeeded(EVALUATE),)}})
    made, body = planned(turned(body, template), told, 200)
    assert made.then == ()
    assert not is_terminal(body["status"])
    _, body = planned(body, stages_done(PREPARE, TRAIN, EVALUATE), 201)
    assert condition(body, "Published")["status"] == "True"
    assert body["status"]["phase"] == "Succeeded"


def test_an_evaluation_that_may_be_publishing_is_stopped_before_the_job_ends():
    body, known = evaluating()
    made, body = planned(turned(body, HIDING), known, 200)
    assert [type(action) for action in made.then] == [PauseJob]
    assert not is_terminal(body["status"])
    assert condition(body, "Evaluated")["reason"] == "ReservedName"
    rest = stopped(turned(body, {}), known, 205)
    _, body = planned(body, rest, 210)
    assert not is_terminal(body["status"])
    assert planned(body, rest, 215)[0].status is None
    published = planned(body, stopped(turned(body, {}), known, 205, succeeded(EVALUATE)), 210)[1]
    assert published["status"]["phase"] == "Succeeded"
    silent = planned(body, rest, 400)[1]["status"]
    assert (silent["phase"], silent["lastFailure"]["reason"]) == ("Failed", "ReservedName")


def test_an_evaluation_that_is_resumed_gets_no_pods_that_no_configuration_allows():
    body, known = evaluating()
    rest = stopped(body, known, 205)
    held = {**body, "spec": {**body["spec"], "suspend": True}}
    _, body = planned(held, rest, 210)
    assert body["status"]["phase"] == "Suspended"
    resumed = {**body, "spec": {**body["spec"], "suspend": False}}
    made, body = planned(turned(resumed, HIDING), rest, 215)
    assert made.then == ()
    assert not is_terminal(body["status"])
    assert planned(body, rest, 400)[1]["status"]["phase"] == "Failed"


def test_a_stage_whose_pods_have_succeeded_is_recorded_and_the_next_one_is_not_made():
    told = training()
    told["pods"] = {TRAIN: (succeeded(TRAIN),)}
    body = live([training()], prepared(), at(70))[1]
    made, body = planned(turned(body, HIDING), told, 80)
    assert not is_terminal(body["status"])
    made, body = planned(body, stages_done(PREPARE, TRAIN), 90)
    assert made.first == ()
    assert body["status"]["phase"] == "Failed"
    assert body["status"]["artifact"]["sha256"]


def test_a_training_that_kueue_has_preempted_has_begun_before_kueue_counts_it():
    state = {"running": {"startedAt": timestamp(at(65))}}
    runs = in_queue("admitted", suspend=False, pods=[pod(TRAIN, state=state)])
    body = live([runs], job(queueName="team-a"), at(80))[1]
    made, body = planned(turned(body, UNLISTED), in_queue("waiting"), 90)
    assert made.then == ()
    assert body["status"]["phase"] == "Queued"
