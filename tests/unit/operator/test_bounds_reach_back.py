"""Bounds of pods hold jobs that an older operator, or another configuration, has accepted."""

from __future__ import annotations

import pytest

from finetune_api.trainer import Stage
from finetune_operator.finetunejob.actions import ActivateWorkload, PauseJob
from finetune_operator.finetunejob.plan import plan
from finetune_operator.status.conditions import is_terminal
from unit.operator.builders import (
    CONFIG,
    NOW,
    accepted,
    after,
    at,
    child,
    condition,
    job,
    live,
    merged,
    observe,
    running,
    stages_done,
)
from unit.operator.test_queueing import in_queue

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


def turned(body, template):
    """Return a job as an operator without these bounds left it."""
    return {**body, "spec": {**body["spec"], "podTemplate": template}}


def prepared():
    return live([stages_done(PREPARE)], accepted(), at(60))[1]


def training(**status):
    return merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running(), **status)}})


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (HIDING, "ReservedName"),
        (CODE, "MountNotAllowed"),
        (UNLISTED, "EnvironmentNotAllowed"),
        (IDENTITY, "LabelNotAllowed"),
    ],
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
    assert failed["message"].endswith("To begin again: finetune retry headlines -n team-a")


def test_a_job_that_was_accepted_before_and_has_no_pod_yet_is_judged_again():
    made = plan(observe(turned(accepted(), UNLISTED)), NOW, CONFIG)
    assert made.first == ()
    assert made.status["lastFailure"]["reason"] == "EnvironmentNotAllowed"


@pytest.mark.parametrize("template", [HIDING, CODE, UNLISTED])
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
