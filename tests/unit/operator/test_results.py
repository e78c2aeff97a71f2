"""Results of stages, also those that were lost on their way."""

from __future__ import annotations

import pytest

from finetune_api.trainer import PrepareResult, RowCounts, Stage
from finetune_api.v1alpha1.status import InvalidRowPlace
from finetune_operator.finetunejob.actions import (
    ConfirmMissing,
    CreateStage,
)
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.results import result_of_status, sections_of
from finetune_operator.finetunejob.trimmed import newest_runs
from finetune_operator.status.conditions import is_terminal, timestamp
from unit.operator.builders import (
    CONFIG,
    NOW,
    accepted,
    after,
    at,
    child,
    complete,
    condition,
    ended,
    live,
    merged,
    observe,
    reasons,
    stages_done,
    succeeded,
    success_text,
    trained,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


def test_a_result_is_waited_for_while_the_pod_cache_may_be_behind():
    body = accepted()
    known = {"jobs": {PREPARE: child(PREPARE, status=complete(end=60))}}
    made = plan(observe(body, **known), at(62), CONFIG)
    assert made.first == ()
    assert made.requeue_after == 1.0


def test_a_lost_result_is_unknown_and_does_not_fail_the_job():
    body = accepted()
    known = {"jobs": {PREPARE: child(PREPARE, status=complete(end=60))}}
    made = plan(observe(body, **known), at(90), CONFIG)
    assert [action.stage for action in made.first] == [TRAIN]
    assert condition(made, "DatasetReady")["status"] == "Unknown"
    assert condition(made, "DatasetReady")["reason"] == "ResultNotReported"


def test_places_of_rows_left_out_go_into_the_status_and_back():
    place = InvalidRowPlace(file="a.jsonl", line=7, reason="NotJson")
    result = PrepareResult(
        digest="d",
        uri="s3://models/datasets/d",
        rows=RowCounts(train=1, validation=1, test=1),
        num_tokens=1,
        num_invalid_rows=1,
        invalid_rows=[place],
        num_truncated_rows=0,
    )
    sections = sections_of(result)
    assert sections["dataset"]["invalidRows"] == [place.to_wire()]
    assert result_of_status(sections, PREPARE) == result


def test_a_pushed_result_in_the_status_replaces_lost_last_words():
    body = accepted()
    made = plan(observe(body, **stages_done(PREPARE)), at(60), CONFIG)
    body["status"]["dataset"] = made.status["dataset"]
    known = {"jobs": {PREPARE: child(PREPARE, status=complete(end=60))}}
    made = plan(observe(body, **known), at(61), CONFIG)
    assert condition(made, "DatasetReady")["status"] == "True"


def run_again(known, run, **more):
    """Return the snapshot with another run of the evaluation."""
    later = {"jobs": {EVALUATE: child(EVALUATE, run=run, **more)}, "pods": {EVALUATE: ()}}
    return merged(known, later)


WITHOUT_VERDICT = {
    "nothing": (),
    "no last words": (ended(EVALUATE, 0, ""),),
    "no word of the goal": (
        ended(EVALUATE, 0, success_text(EVALUATE).replace('"goalMet":true,', "")),
    ),
    "no version": (ended(EVALUATE, 0, success_text(EVALUATE).replace('"version":1,', "")),),
}


@pytest.mark.parametrize("pods", WITHOUT_VERDICT.values(), ids=WITHOUT_VERDICT)
def test_an_evaluation_whose_result_was_lost_runs_again_and_nothing_is_called_published(pods):
    body = trained()
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = pods
    made = plan(observe(body, **known), at(500), CONFIG)
    (action,) = made.first
    assert isinstance(action, CreateStage)
    assert action.job["metadata"]["name"] == "headlines-evaluate-2"
    assert not is_terminal(made.status)
    assert condition(made, "Published") is None
    made = plan(observe(body, **run_again(known, 2)), at(501), CONFIG)
    assert reasons(made)[-1] == "ResultNotReported"
    body = after(body, made)
    assert body["status"]["phase"] == "Evaluating"
    assert body["status"]["stages"][2]["job"] == "headlines-evaluate-2"
    found = run_again(known, 2, status=complete())
    found["pods"][EVALUATE] = (succeeded(EVALUATE),)
    made = plan(observe(body, **found), at(600), CONFIG)
    assert condition(made, "Complete")["status"] == "True"
    assert condition(made, "GoalMet")["status"] == "True"


def test_a_result_that_is_lost_every_time_ends_the_job_with_the_reason():
    known = run_again(stages_done(PREPARE, TRAIN), 3, status=complete())
    made = plan(observe(trained(), **known), at(500), CONFIG)
    assert condition(made, "Failed")["status"] == "True"
    assert condition(made, "Complete") is None
    assert made.status["reason"] == "ResultNotReported"
    assert "succeeded 3 times" in condition(made, "Failed")["message"]


def test_a_second_run_that_was_deleted_is_not_mistaken_for_the_first():
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = ()
    _, body = live([run_again(known, 2)], trained(), at(500))
    made = plan(observe(body, **known), at(510), CONFIG)
    assert made.first == (ConfirmMissing(stage=EVALUATE, name="headlines-evaluate-2"),)
    made = plan(observe(body, **known, missing=frozenset({EVALUATE})), at(510), CONFIG)
    assert made.status["lastFailure"]["reason"] == "JobDeleted"


def test_of_several_runs_the_newest_counts():
    runs = [child(EVALUATE, run=run) for run in (2, 1, 10)]
    (newest,) = newest_runs(runs).values()
    assert newest["metadata"]["name"] == "headlines-evaluate-10"


def test_a_job_that_an_older_operator_left_without_a_verdict_is_not_called_published():
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = ()
    body = trained()
    over = {"name": "evaluate", "job": "headlines-evaluate", "completionTime": timestamp(NOW)}
    body["status"]["stages"].append(over)
    made = plan(observe(body, **known), at(500), CONFIG)
    assert condition(made, "Complete") is None
    assert condition(made, "Failed")["reason"] == "ResultNotReported"
    assert condition(made, "Published")["status"] == "Unknown"
    assert condition(made, "GoalMet")["status"] == "Unknown"
