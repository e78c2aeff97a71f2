"""Terminal is terminal; what is stopped and deleted afterwards."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import DeleteSelf, PauseJob
from finetune_operator.finetunejob.state.observed import trim_finetunejob
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONFIG,
    NOW,
    after,
    at,
    child,
    failed,
    job,
    live,
    merged,
    observe,
    running,
    stages_done,
    succeeded,
    trained,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


def ended_body():
    made, body = live([stages_done(PREPARE, TRAIN, EVALUATE)], trained(), at(200))
    return body


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"jobs": {PREPARE: child(PREPARE, status=failed())}},
        {"jobs": {TRAIN: child(TRAIN)}},
        stages_done(PREPARE),
    ],
    ids=["everything is gone", "a Job failed later", "a Job reappears", "only the first is there"],
)
def test_terminal_is_terminal(known):
    made = plan(observe(ended_body(), **known), at(10_000), CONFIG)
    assert made.status is None
    assert made.first == ()
    assert made.events == ()


def test_a_failed_job_stops_what_still_runs_even_after_a_crash():
    body = ended_body()
    made = plan(observe(body, jobs={TRAIN: child(TRAIN, status=running())}), at(300), CONFIG)
    assert [type(action) for action in made.then] == [PauseJob]


def test_an_object_that_is_being_deleted_is_left_alone():
    body = job()
    body["metadata"]["deletionTimestamp"] = timestamp(NOW)
    made = plan(observe(body), NOW, CONFIG)
    assert (made.first, made.then, made.status) == ((), (), None)


@pytest.mark.parametrize(
    ("finalizers", "stopped"),
    [
        ([], []),
        (["foregroundDeletion"], []),
        (["orphan"], []),
        (["backup.example.org/wait"], [PauseJob]),
        (["foregroundDeletion", "backup.example.org/wait"], [PauseJob]),
        (["orphan", "backup.example.org/wait"], []),
    ],
)
def test_what_runs_is_stopped_where_a_finalizer_keeps_a_job_that_is_being_deleted(
    finalizers, stopped
):
    body = job()
    body["metadata"] |= {"deletionTimestamp": timestamp(NOW), "finalizers": finalizers}
    known = stages_done(PREPARE)
    known["jobs"][TRAIN] = child(TRAIN, status=running())
    made = plan(observe(trim_finetunejob(body), **known), at(300), CONFIG)
    assert [type(action) for action in made.then] == stopped
    assert (made.first, made.status) == ((), None)


def test_ttl_deletes_the_finished_job_in_time_and_not_before():
    body = ended_body()
    body = {**body, "spec": {**body["spec"], "ttlSecondsAfterFinished": 100}}
    early = plan(observe(body), at(250), CONFIG)
    assert early.then == ()
    assert early.requeue_after == pytest.approx(50)
    late = plan(observe(body), at(301), CONFIG)
    assert late.then == (DeleteSelf(),)


@pytest.mark.parametrize("ttl", [0, 100])
@pytest.mark.parametrize("goal_met", [True, False], ids=["complete", "failed"])
def test_the_plan_that_ends_a_job_looks_again_when_its_time_is_over(ttl, goal_met):
    """Nothing else wakes the operator then."""
    body = trained(job(ttlSecondsAfterFinished=ttl))
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = (succeeded(EVALUATE, goal_met=goal_met),)
    made = plan(observe(body, **known), at(200), CONFIG)
    assert is_terminal(made.status)
    assert made.requeue_after == ttl
    late = plan(observe(after(body, made), **known), at(200 + ttl), CONFIG)
    assert late.then == (DeleteSelf(),)


def test_a_job_that_was_refused_is_deleted_by_ttl_too():
    body = job(model={"uri": "file:///etc/passwd"}, ttlSecondsAfterFinished=7)
    made = plan(observe(body), NOW, CONFIG)
    assert made.requeue_after == 7


def test_a_job_without_ttl_is_not_looked_at_again():
    made = plan(observe(trained(), **stages_done(PREPARE, TRAIN, EVALUATE)), at(200), CONFIG)
    assert made.requeue_after is None


def test_a_running_job_is_not_deleted_by_ttl():
    body = trained(job(ttlSecondsAfterFinished=0))
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running())}})
    made = plan(observe(body, **known), at(10_000), CONFIG)
    assert DeleteSelf() not in made.then
