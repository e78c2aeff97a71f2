"""A stage reports what is its own, within the bounds of the status, and nothing else."""

from __future__ import annotations

import json

import pytest

from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import FailureClass, Stage
from finetune_operator.finetunejob.plan import plan
from kit.builders.jobs import (
    CONFIG,
    accepted,
    after,
    at,
    child,
    condition,
    ended,
    job,
    merged,
    observe,
    stages_done,
    trained,
    with_train_pod,
)
from kit.cluster.crd import status_problems
from kit.cluster.simulation import result_of

PREPARE, TRAIN = Stage.PREPARE, Stage.TRAIN
EVALUATE, PUBLISH = Stage.EVALUATE, Stage.PUBLISH


@pytest.mark.parametrize("of", [PREPARE, EVALUATE, PUBLISH])
def test_a_training_pod_reports_nothing_of_another_stage(of):
    text = TerminationMessage(stage=TRAIN, exit_code=0, result=result_of(of)).to_text()
    known = merged(stages_done(PREPARE), stages_done(TRAIN))
    known["pods"][TRAIN] = (ended(TRAIN, 0, text),)
    before = trained()
    made = plan(observe(before, **known), at(90), CONFIG)
    assert "evaluation" not in made.status
    assert made.status["dataset"] == before["status"]["dataset"]
    told = condition(made, "Training")
    assert (told["status"], told["reason"]) == ("Unknown", "ResultRefused")
    assert f"result of stage {of.value}" in told["message"]


def test_words_that_name_another_stage_than_the_pod_are_not_its_own():
    text = TerminationMessage(
        stage=EVALUATE, exit_code=64, reason="GoalNotMet", message="mine",
        failure_class=FailureClass.USER_ERROR,
    ).to_text()  # fmt: skip
    known = with_train_pod(trained(), ended(TRAIN, 75, text))
    made = plan(observe(trained(), **known), at(90), CONFIG)
    assert made.status["lastFailure"]["reason"] == "Retryable"


@pytest.mark.parametrize("said", ["Evicted", "BudgetExceeded", "GoalNotMet", "Unschedulable"])
def test_a_container_does_not_say_what_is_the_operators_to_say(said):
    text = json.dumps({"stage": "train", "exitCode": 70, "failureClass": said, "reason": "R"})
    known = with_train_pod(trained(), ended(TRAIN, 70, text))
    made = plan(observe(trained(), **known), at(90), CONFIG)
    assert made.status["lastFailure"]["class"] == "Internal"


BEYOND = {
    "more bits than JSON has": ("numTokens", 2**64),
    "a negative count": ("numInvalidRows", -1),
    "an address without end": ("uri", "s3://" + "x" * 1300),
    "a digest without end": ("digest", "d" * 254),
}


@pytest.mark.parametrize("case", BEYOND)
def test_a_result_beyond_the_bounds_is_refused_and_the_message_names_the_field(case):
    name, value = BEYOND[case]
    wire = {**result_of(PREPARE).to_wire(), name: value}
    text = json.dumps({"stage": "prepare", "exitCode": 0, "result": wire})
    known = stages_done(PREPARE)
    known["pods"][PREPARE] = (ended(PREPARE, 0, text),)
    made = plan(observe(accepted(), **known), at(90), CONFIG)
    told = condition(made, "DatasetReady")
    assert (told["status"], told["reason"]) == ("Unknown", "ResultRefused")
    assert name in told["message"]
    assert status_problems(made.status) == []


def test_a_version_whose_number_is_above_the_bound_is_refused():
    wire = {**result_of(EVALUATE).to_wire(), "version": 999_999_999}
    text = json.dumps({"stage": "evaluate", "exitCode": 0, "result": wire})
    known = merged(stages_done(PREPARE), stages_done(TRAIN), stages_done(EVALUATE))
    known["pods"][EVALUATE] = (ended(EVALUATE, 0, text),)
    made = plan(observe(trained(), **known), at(90), CONFIG)
    assert "version" not in made.status.get("artifact", {})
    told = condition(made, "Evaluated")
    assert (told["status"], told["reason"]) == ("Unknown", "ResultRefused")
    assert "version" in told["message"]


def test_a_stage_whose_result_is_refused_each_time_ends_and_says_so():
    spec = {"dataset": {"sources": [{"uri": "s3://data/h.jsonl"}], "approval": "Required"}}
    wire = {**result_of(PREPARE).to_wire(), "numTokens": -1}
    text = json.dumps({"stage": "prepare", "exitCode": 0, "result": wire})
    body = accepted(job(**spec))
    for run in (1, 2, 3):
        done = child(PREPARE, body, status=stages_done(PREPARE)["jobs"][PREPARE]["status"], run=run)
        known = {"jobs": {PREPARE: done}, "pods": {PREPARE: (ended(PREPARE, 0, text),)}}
        made = plan(observe(body, **known), at(90 + run), CONFIG)
        body = after(body, made)
    assert condition(body, "Failed")["status"] == "True"
    assert body["status"]["lastFailure"]["reason"] == "ResultRefused"
    assert "numTokens" in body["status"]["lastFailure"]["message"]


def test_a_speed_that_is_no_number_does_not_stop_the_plan():
    estimate = {"trainSeconds": 1, "evaluateSeconds": 1, "tokens": 1, "device": "h100"}
    wire = result_of(PREPARE).to_wire() | {"estimate": {**estimate, "tokensPerSecond": "fast"}}
    text = json.dumps({"stage": "prepare", "exitCode": 0, "result": wire})
    known = stages_done(PREPARE)
    known["pods"][PREPARE] = (ended(PREPARE, 0, text),)
    made = plan(observe(accepted(), **known), at(90), CONFIG)
    assert condition(made, "DatasetReady")["reason"] == "ResultRefused"
