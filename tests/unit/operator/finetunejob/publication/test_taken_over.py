"""A job whose run is complete in storage trains nothing: Job ``publish`` reads the evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.names import run_uid
from finetune_api.protocol.stage_results import TakenOver
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import Stage
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.decisions import Decision
from kit.builders.jobs import (
    CONFIG,
    PREPARE,
    TRAIN,
    UID,
    accepted,
    after,
    at,
    child,
    complete,
    condition,
    ended,
    job,
    live,
    merged,
    observe,
    stages_done,
    succeeded,
)
from kit.cluster.simulation import result_of

PUBLISH = Stage.PUBLISH
REQUIRED = {"dataset": {"sources": [{"uri": "s3://data/rows"}], "approval": "Required"}}


def prepared(*, is_published: bool = True, **more: Any) -> dict[str, Any]:
    """Return the snapshot after a ``prepare`` that found a complete run."""
    run = TakenOver(
        uid="old",
        is_published=is_published,
        uri="s3://models/runs/team-a/headlines/old/adapter",
        sha256="a" * 64,
        num_bytes=7,
    )
    result = result_of(PREPARE).model_copy(update={"taken_over": run})
    text = TerminationMessage(stage=PREPARE, exit_code=0, result=result).to_text()
    jobs = {PREPARE: child(PREPARE, status=complete())}
    return merged({"jobs": jobs, "pods": {PREPARE: (ended(PREPARE, 0, text),)}}, more)


def created(made: Any) -> list[str]:
    return [action.job["metadata"]["name"] for action in made.first if hasattr(action, "job")]


def test_nothing_is_trained_and_the_evaluation_is_read() -> None:
    made = plan(observe(accepted(), **prepared()), at(60), CONFIG)
    assert created(made) == ["headlines-publish"]
    training = condition(made, "Training")
    assert training is not None
    assert (training["status"], training["reason"]) == ("False", "TakenOver")
    body = after(accepted(), made)
    assert run_uid(body) == "old"
    assert run_uid(accepted()) == UID


def test_the_job_ends_with_the_version_and_the_weights_of_that_run() -> None:
    known = prepared()
    _, body = live([known], accepted(), at(60))
    made = plan(observe(body, **merged(known, stages_done(PUBLISH))), at(90), CONFIG)
    assert made.status["phase"] == "Succeeded"
    artifact = made.status["artifact"]
    assert (artifact["version"], artifact["sha256"]) == (1, "a" * 64)
    assert condition(made, "Complete")["status"] == "True"


def test_it_is_known_once_the_pod_of_prepare_is_gone() -> None:
    _, body = live([prepared()], accepted(), at(60))
    gone = {"jobs": prepared()["jobs"], "pods": {}}
    assert created(plan(observe(body, **gone), at(70), CONFIG)) == ["headlines-publish"]


def test_a_missed_goal_is_missed_again_without_training() -> None:
    known = prepared(is_published=False)
    _, body = live([known], accepted(), at(60))
    missed = {
        "jobs": {PUBLISH: child(PUBLISH, status=complete())},
        "pods": {PUBLISH: (succeeded(PUBLISH, goal_met=False),)},
    }
    made = plan(observe(body, **merged(known, missed)), at(90), CONFIG)
    assert condition(made, "Failed")["reason"] == "GoalNotMet"
    assert created(made) == []


def test_what_is_published_needs_no_approval_of_its_data_again() -> None:
    body = accepted(job(**REQUIRED))
    assert created(plan(observe(body, decisions=(), **prepared()), at(60), CONFIG)) == [
        "headlines-publish"
    ]


@pytest.mark.parametrize("subject", ["DataSet", "Publication"])
def test_what_is_not_published_needs_the_approval_that_training_needs(subject: Any) -> None:
    body = accepted(job(**REQUIRED))
    known = prepared(is_published=False)
    made = plan(observe(body, decisions=(), **known), at(60), CONFIG)
    assert created(made) == []
    assert condition(made, "DataApproved")["reason"] == "ApprovalRequired"
    yes = Decision(name="yes", digest="d" * 64, is_approval=True, by="ann", subject=subject)
    _, body = live([{**known, "decisions": (yes,)}], body, at(61))
    made = plan(observe(body, decisions=(yes,), **known), at(62), CONFIG)
    assert created(made) == (["headlines-publish"] if subject == "DataSet" else [])


def test_a_job_that_took_nothing_over_trains() -> None:
    made = plan(observe(accepted(), **stages_done(PREPARE)), at(60), OperatorConfig())
    assert created(made) == [f"headlines-{TRAIN.value}"]
