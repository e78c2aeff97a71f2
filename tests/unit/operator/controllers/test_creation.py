"""What is created for a job, and when; and children that are gone or in the way."""

from __future__ import annotations

import pytest

from finetune_api.protocol.evaluation_result import GateResult, LookResult, PublishedVersion
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import ConfirmMissing, CreateStage
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.finetunejob.state.results import result_of_status
from finetune_operator.status.conditions import is_terminal
from kit.builders.jobs import (
    CONFIG,
    NOW,
    accepted,
    at,
    child,
    condition,
    ended,
    job,
    live,
    merged,
    observe,
    pod,
    reasons,
    running,
    stages_done,
    succeeded,
    trained,
)
from kit.cluster.simulation import result_of

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


# ---- creation ------------------------------------------------------------------------------------


def test_a_new_job_gets_its_config_map_and_its_prepare_job():
    made = plan(observe(job()), NOW, CONFIG)
    (action,) = made.first
    assert isinstance(action, CreateStage)
    assert action.stage is PREPARE
    assert [need["kind"] for need in action.needs] == ["ConfigMap"]
    assert action.job["metadata"]["name"] == "headlines-prepare"


def test_the_status_after_creation_says_preparing():
    made = plan(observe(job(), jobs={PREPARE: child(PREPARE)}), NOW, CONFIG)
    assert made.first == ()
    assert made.status["phase"] == "Preparing"
    assert condition(made, "Accepted")["status"] == "True"
    assert condition(made, "DatasetReady")["reason"] == "Preparing"
    assert made.status["observedGeneration"] == 1
    assert reasons(made) == ["Accepted"]


def test_a_pod_that_starts_to_prepare_is_not_worth_a_write():
    body = accepted()
    made = plan(
        observe(
            body, jobs={PREPARE: child(PREPARE, status=running())}, pods={PREPARE: (pod(PREPARE),)}
        ),
        at(5),
        CONFIG,
    )
    assert made.status is None
    assert made.events == ()


def test_prepared_data_is_reported_and_training_created_in_one_go():
    body = accepted()
    made = plan(observe(body, **stages_done(PREPARE)), at(60), CONFIG)
    assert [action.stage for action in made.first] == [TRAIN]
    made = plan(
        observe(body, **merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN)}})),
        at(60),
        CONFIG,
    )
    assert made.status["dataset"]["rows"] == {"train": 450, "validation": 30, "test": 120}
    assert made.status["phase"] == "Training"
    assert condition(made, "DatasetReady")["status"] == "True"
    assert condition(made, "Training")["reason"] == "WaitingForPods"
    assert reasons(made) == [], "the condition says it"


def test_several_nodes_need_a_headless_service():
    body = accepted(job(resources={"nodes": 2, "gpusPerNode": 0}))
    made = plan(observe(body, **stages_done(PREPARE)), at(60), CONFIG)
    (action,) = made.first
    assert [need["kind"] for need in action.needs] == ["Service"]
    assert action.job["spec"]["completions"] == 2


def test_training_says_so_when_a_pod_runs():
    body = trained()
    assert condition(body, "Training")["status"] == "True"
    assert body["status"]["phase"] == "Training"


def test_the_last_stage_publishes_and_completes():
    body = trained()
    made = plan(observe(body, **stages_done(PREPARE, TRAIN, EVALUATE)), at(200), CONFIG)
    assert made.status["phase"] == "Succeeded"
    assert condition(made, "Complete")["status"] == "True"
    assert condition(made, "Published")["status"] == "True"
    assert condition(made, "GoalMet")["status"] == "True"
    assert made.status["artifact"]["version"] == 1
    assert made.status["evaluation"]["scores"] == [
        {"name": "exactMatch", "base": "0.41", "tuned": "0.93"}
    ]
    assert made.status["progress"] == {
        "stage": "evaluate",
        "percent": 100,
        "step": 171,
        "totalSteps": 171,
    }
    assert condition(made, "Failed") is None
    assert made.then == ()


@pytest.mark.parametrize("goal", [{"metric": "exactMatch", "atLeast": "0.8"}, None])
def test_a_missed_goal_fails_the_job_and_publishes_nothing(goal):
    body = trained()
    body["spec"]["goal"] = goal
    if goal is None:  # too few held-out prompts are not enough without a goal either
        del body["spec"]["goal"]
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = (succeeded(EVALUATE, goal_met=False),)
    made = plan(observe(body, **known), at(200), CONFIG)
    assert condition(made, "Failed")["reason"] == "GoalNotMet"
    assert condition(made, "Published")["status"] == "False"
    assert condition(made, "GoalMet")["status"] == "False"
    assert condition(made, "Stalled")["status"] == "True"
    assert condition(made, "Complete") is None
    assert condition(made, "Evaluated")["status"] == "True"
    assert "version" not in made.status["artifact"]
    assert made.status["lastFailure"]["class"] == "GoalNotMet"
    assert "GoalNotMet" in reasons(made)


GATES = [{"name": "refunds", "metric": "exactMatch", "atLeast": "0.8"}]


def evaluated(*gates, **more):
    """Plan the end of a job that has a gate, and whose evaluation says this of its gates."""
    body = trained()
    body["spec"]["evaluation"] = {"gates": GATES}
    missed = any(not gate.met and gate.severity == "Block" for gate in gates)
    found = result_of(EVALUATE, goal_met=True).model_copy(update={"gates": list(gates), **more})
    if missed:
        found = found.model_copy(update={"version": None, "manifest_uri": ""})
    text = TerminationMessage(stage=EVALUATE, exit_code=0, result=found).to_text()
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = (ended(EVALUATE, 0, text),)
    return plan(observe(body, **known), at(200), CONFIG)


def test_a_missed_gate_fails_the_job_and_says_which():
    made = evaluated(GateResult(name="refunds", met=False, message="exactMatch 0.6 (0.8)"))
    assert condition(made, "GoalMet")["status"] == "True"
    published = condition(made, "Published")
    assert (published["status"], published["reason"]) == ("False", "GatesNotMet")
    assert published["message"] == "gate refunds missed: exactMatch 0.6 (0.8)"
    assert condition(made, "Failed")["reason"] == "GatesNotMet"
    assert made.status["lastFailure"]["class"] == "GatesNotMet"
    assert made.status["evaluation"]["gates"] == [
        {"name": "refunds", "met": False, "severity": "Block", "message": "exactMatch 0.6 (0.8)"}
    ]


def test_a_warning_is_told_and_stops_nothing():
    warned = GateResult(name="refunds", met=False, severity="Warn", message="exactMatch 0.6")
    made = evaluated(warned)
    assert condition(made, "Complete")["status"] == "True"
    assert "only a warning: gate refunds" in condition(made, "Published")["message"]


def test_alarms_beside_the_gates_that_nobody_asked_for_hold_nothing_back():
    alarm = GateResult(name="safety-refusals", met=True, message="no harm is shown")
    made = evaluated(GateResult(name="refunds", met=True), alarm)
    assert condition(made, "Complete")["status"] == "True"
    assert made.first == ()
    assert [gate["name"] for gate in made.status["evaluation"]["gates"]] == [
        "refunds",
        "safety-refusals",
    ]


def test_an_alarm_is_no_word_on_the_gate():
    made = evaluated(GateResult(name="safety-refusals", met=True))
    assert condition(made, "Complete") is None


def test_a_gate_that_does_not_apply_is_told_as_such():
    words = "exactMatch does not apply: nothing is published as n/j yet"
    made = evaluated(GateResult(name="refunds", met=True, applicable=False, message=words))
    assert condition(made, "Complete")["status"] == "True"
    assert made.status["evaluation"]["gates"] == [
        {"name": "refunds", "met": True, "severity": "Block", "applicable": False, "message": words}
    ]


def test_the_number_of_the_evaluation_is_told_and_read_back():
    words = "This is the 3rd evaluation against this held-out side"
    made = evaluated(GateResult(name="refunds", met=True), look=LookResult(number=3, message=words))
    assert made.status["evaluation"]["look"] == {"number": 3, "message": words}
    found = result_of_status(made.status, EVALUATE)
    assert (found.look.number, found.look.message) == (3, words)


def test_a_version_that_nobody_compared_with_is_told():
    published = PublishedVersion(version=3, newer=4)
    made = evaluated(GateResult(name="refunds", met=True), published=published)
    evaluation = made.status["evaluation"]
    assert (evaluation["publishedVersion"], evaluation["newerVersion"]) == (3, 4)
    words = "; version 4 was published meanwhile, after the comparison with version 3"
    assert words in condition(made, "Published")["message"]


def test_a_version_without_a_word_on_the_gates_is_no_verdict():
    made = evaluated()
    assert condition(made, "Complete") is None


# ---- children that are gone or in the way --------------------------------------------------------


def test_a_job_missing_from_the_cache_is_confirmed_before_it_is_believed():
    body = trained()
    made = plan(observe(body, **stages_done(PREPARE)), at(100), CONFIG)
    assert made.first == (ConfirmMissing(stage=TRAIN, name="headlines-train"),)
    made = plan(observe(body, **stages_done(PREPARE), missing=frozenset({TRAIN})), at(100), CONFIG)
    assert condition(made, "Training")["reason"] == "JobDeleted"
    assert made.status["lastFailure"]["reason"] == "JobDeleted"
    assert made.first == ()


def test_a_deleted_job_of_a_stage_that_is_over_does_not_matter():
    made, body = live([stages_done(PREPARE)], accepted(), at(60))
    known = {"jobs": {TRAIN: child(TRAIN, status=running())}}
    made = plan(observe(body, **known), at(100), CONFIG)
    assert made.first == ()
    assert not is_terminal(made.status)


@pytest.mark.parametrize("is_final", [False, True])
def test_a_refused_creation_is_told(is_final):
    refusal = Refusal(reason="Forbidden", message="exceeded quota: gpus", is_final=is_final)
    made = plan(observe(job(), refusals={PREPARE: refusal}), NOW, CONFIG)
    assert made.first == ()
    assert is_terminal(made.status) is is_final
    assert "exceeded quota" in condition(made, "DatasetReady")["message"]
    assert (made.requeue_after is None) is is_final
