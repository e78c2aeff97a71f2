"""A publication in hand is published, whatever ends the job in the same moment."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import ActivateWorkload, ConfirmMissing, PauseJob
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONFIG,
    after,
    at,
    child,
    condition,
    ended,
    job,
    live,
    merged,
    observe,
    pod,
    queue,
    replace,
    running,
    stages_done,
    succeeded,
    trained,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE
LIMITS = {
    "prune": {"prune": True},
    "deadline": {"activeDeadlineSeconds": 100},
    "budget": {"budget": {"gpuHours": "0.01"}},
}
ENDED_AS = {"prune": "Pruned", "deadline": "Failed", "budget": "Failed"}


def evaluating(**spec):
    """Return a job whose evaluation runs, and the snapshot of it."""
    body = trained(job(resources={"nodes": 1, "gpusPerNode": 1}, **spec))
    state = {"running": {"startedAt": timestamp(at(130))}}
    known = merged(
        stages_done(PREPARE, TRAIN),
        {"jobs": {EVALUATE: child(EVALUATE, body, status=running(125))},
         "pods": {EVALUATE: (pod(EVALUATE, state=state),)}},
    )  # fmt: skip
    return live([known], body, at(140))[1], known


def limited(body, by):
    return {**body, "spec": {**body["spec"], **LIMITS[by]}}


def stopped(body, known, since, *pods):
    told = {"type": "Suspended", "status": "True", "lastTransitionTime": timestamp(at(since))}
    paused = {"finetune.dev/paused": "true", "finetune.dev/active-seconds": "900"}
    each = child(EVALUATE, body, suspend=True, annotations=paused, status={"conditions": [told]})
    return merged(known, {"jobs": {EVALUATE: each}, "pods": {EVALUATE: pods}})


def planned(body, known, now, **more):
    made = plan(observe(body, **known, **more), at(now), CONFIG)
    return made, after(body, made)


def published():
    """Return what an evaluation pushes that has published."""
    done = live([stages_done(PREPARE, TRAIN, EVALUATE)], trained(), at(500))[1]["status"]
    return {key: done[key] for key in ("evaluation", "artifact")}


@pytest.mark.parametrize("by", LIMITS)
def test_a_version_whose_pod_has_told_it_is_published_before_its_job_is_complete(by):
    """The Job controller needs a moment to count the pod."""
    body, known = evaluating()
    told = merged(known, {"pods": {EVALUATE: (succeeded(EVALUATE),)}})
    made, body = planned(limited(body, by), told, 1000)
    assert not is_terminal(body["status"])
    assert made.then == ()
    _, body = planned(body, stages_done(PREPARE, TRAIN, EVALUATE), 1001)
    assert body["status"]["phase"] == "Succeeded"


@pytest.mark.parametrize("by", LIMITS)
def test_an_evaluation_that_is_stopped_as_it_publishes_is_published(by):
    body, known = evaluating()
    made, body = planned(limited(body, by), known, 1000)
    assert [type(action) for action in made.then] == [PauseJob]
    assert not is_terminal(body["status"])
    assert planned(body, known, 1000)[0].status is None
    # Its words arrive with the pod's end, and the Job was suspended meanwhile.
    _, body = planned(body, stopped(body, known, 1005, succeeded(EVALUATE)), 1006)
    assert condition(body, "Published")["status"] == "True"
    assert body["status"]["phase"] == "Succeeded"


@pytest.mark.parametrize("by", LIMITS)
def test_a_version_that_is_reported_late_is_published(by):
    body, known = evaluating()
    _, body = planned(limited(body, by), known, 1000)
    resting = stopped(body, known, 1005)
    made, body = planned(body, resting, 1010)
    assert (is_terminal(body["status"]), made.requeue_after) == (False, 130)
    body = {**body, "status": {**body["status"], **published()}}
    _, body = planned(body, resting, 1100)
    assert body["status"]["phase"] == "Succeeded"


@pytest.mark.parametrize("by", LIMITS)
def test_an_evaluation_that_has_published_nothing_ends_as_it_was_to(by):
    body, known = evaluating()
    _, body = planned(limited(body, by), known, 1000)
    saving = stopped(body, known, 1005, *known["pods"][EVALUATE])
    _, body = planned(body, saving, 1100)
    assert not is_terminal(body["status"])
    told, unheard = stopped(body, known, 1005, ended(EVALUATE, 79)), stopped(body, known, 1005)
    assert planned(body, told, 1101)[1]["status"]["phase"] == ENDED_AS[by]
    assert not is_terminal(planned(body, unheard, 1101)[1]["status"])
    assert planned(body, unheard, 1140)[1]["status"]["phase"] == ENDED_AS[by]


@pytest.mark.parametrize("by", LIMITS)
def test_what_a_limit_has_stopped_stays_so_when_its_user_suspends_and_resumes_it(by):
    body, known = evaluating()
    _, body = planned(limited(body, by), known, 1000)
    rests, spec = stopped(body, known, 1005), body["spec"]
    _, body = planned({**body, "spec": {**spec, "suspend": True}}, rests, 1010)
    made, body = planned({**body, "spec": spec}, rests, 1020)
    assert (made.then, made.requeue_after) == ((), 120)
    assert condition(body, "Suspended")["status"] == "False"
    _, body = planned(body, rests, 1140)
    assert body["status"]["phase"] == ENDED_AS[by]


@pytest.mark.parametrize("by", LIMITS)
def test_what_cannot_have_published_ends_at_once(by):
    spec = {"evaluation": {"review": {"required": True, "reviewers": 2}}}
    body, known = evaluating()
    body = {**body, "spec": {**body["spec"], **spec}}
    made, body = planned(limited(body, by), known, 1000)
    assert body["status"]["phase"] == ENDED_AS[by]
    assert [type(action) for action in made.then] == [PauseJob]


def test_what_an_administrator_has_to_approve_is_not_published_by_its_evaluation():
    body, known = evaluating()
    policy = {"required": ["Publication"]}
    body = {**body, "status": {**body["status"], "approvalPolicy": policy}}
    _, body = planned(limited(body, "prune"), known, 1000)
    assert body["status"]["phase"] == "Pruned"


def test_job_publish_is_never_cut():
    spec = {"evaluation": {"review": {"required": True, "reviewers": 2}}}
    body = trained(job(activeDeadlineSeconds=2000, **spec))
    known = merged(
        stages_done(PREPARE, TRAIN, EVALUATE),
        {"jobs": {Stage.PUBLISH: child(Stage.PUBLISH, status=running(700))}},
    )
    made, body = planned(body, known, 5000)
    assert made.then == ()
    assert not is_terminal(body["status"])


def test_a_failure_that_is_seen_late_does_not_undo_a_publication():
    """The operator was away: one pod more failed than there are retries, and the next published."""
    body, known = evaluating()
    body = {**body, "spec": {**body["spec"], "backoffLimit": 0}}
    crashed = ended(EVALUATE, 1, name="first", start=130, end=200)
    told = merged(known, {"pods": {EVALUATE: (crashed, succeeded(EVALUATE))}})
    _, body = planned(body, told, 300)
    assert not is_terminal(body["status"])
    done = stages_done(PREPARE, TRAIN, EVALUATE)
    done["pods"][EVALUATE] = (crashed, succeeded(EVALUATE))
    _, body = planned(body, done, 301)
    assert body["status"]["phase"] == "Succeeded"


# ---- in Kueue's hands ----------------------------------------------------------------------------


def in_a_queue(known, body, **state):
    """Return the snapshot with the evaluation's Job in a queue, and what Kueue says of it."""
    labels = child(EVALUATE, body)["metadata"]["labels"]
    each = known["jobs"][EVALUATE]
    each = {**each, "metadata": {**each["metadata"], "labels": labels}}
    held = queue(workload="wl", **state)
    return merged(
        known, {"jobs": {EVALUATE: each}, "queue": {EVALUATE: held}, "has_kueue": True}
    )  # fmt: skip


def unstarted(body, known, *conditions, pods=()):
    """Return the snapshot once Kueue has suspended the Job and cleared its start."""
    each = child(EVALUATE, body, suspend=True, status={"conditions": list(conditions)})
    return merged(known, {"jobs": {EVALUATE: each}, "pods": {EVALUATE: pods}})


@pytest.mark.parametrize(
    "limit", [{"activeDeadlineSeconds": 500}, {"budget": {"gpuHours": "0.15"}}]
)
def test_a_limit_ends_a_queued_evaluation_whatever_kueue_has_counted_of_it(limit):
    """Kueue clears the start of the run at once, and counts the run once its pods have ended."""
    body, known = evaluating(queueName="gpu")
    known = in_a_queue(known, body, is_admitted=True, has_quota=True)
    made, body = planned({**body, "spec": {**body["spec"], **limit}}, known, 1000)
    assert made.then == (ActivateWorkload(stage=EVALUATE, name="wl", active=False),)
    off = {"is_active": False, "deactivated_by": "finetune-operator", "reason": "Deactivated"}
    saving = in_a_queue(unstarted(body, known, pods=known["pods"][EVALUATE]), body, **off)
    made, body = planned(body, saving, 1003)
    assert made.then == ()
    assert (body["status"]["phase"], is_terminal(body["status"])) == ("Evaluating", False)
    told = {"type": "Suspended", "status": "True", "lastTransitionTime": timestamp(at(1003))}
    rests = in_a_queue(unstarted(body, known, told), body, **off)
    made, body = planned(body, rests, 1010)
    assert made.requeue_after == pytest.approx(128)
    counted = {
        **rests,
        "queue": {EVALUATE: replace(rests["queue"][EVALUATE], past_active_seconds=880)},
    }
    made, body = planned(body, counted, 1040)
    assert made.requeue_after == pytest.approx(98)
    _, body = planned(body, counted, 1138)
    assert body["status"]["phase"] == "Failed"
    assert body["status"]["lastFailure"]["reason"] == condition(body, "Evaluated")["reason"]


# ---- a Job that somebody deletes -----------------------------------------------------------------

GONE = {"missing": frozenset({EVALUATE})}


@pytest.mark.parametrize("by", LIMITS)
def test_a_version_whose_job_was_deleted_is_published(by):
    body, known = evaluating()
    made, body = planned(limited(body, by), known, 1000)
    body = {**body, "status": {**body["status"], **published()}}
    _, body = planned(body, stages_done(PREPARE, TRAIN), 1010)
    assert body["status"]["phase"] == "Succeeded"
    assert condition(body, "Published")["status"] == "True"
    spent = {each["name"]: each["activeSeconds"] for each in body["status"]["stages"]}
    assert spent["evaluate"] >= 875


@pytest.mark.parametrize("by", LIMITS)
def test_a_report_is_waited_for_when_the_job_was_deleted(by):
    body, known = evaluating()
    _, body = planned(limited(body, by), known, 1000)
    known = stages_done(PREPARE, TRAIN)
    made, body = planned(body, known, 1010)
    assert [type(action) for action in made.first] == [ConfirmMissing]
    made, body = planned(body, known, 1010, **GONE)
    assert (is_terminal(body["status"]), made.requeue_after) == (False, 135)
    assert body["status"]["phase"] == "Evaluating"
    _, body = planned(body, known, 1145, **GONE)
    assert body["status"]["phase"] == ENDED_AS[by]


def test_a_job_that_is_pruned_after_its_evaluation_was_deleted_waits_for_its_report():
    body, known = evaluating()
    known = stages_done(PREPARE, TRAIN)
    _, body = planned(body, known, 200, **GONE)
    assert (body["status"]["phase"], body["status"]["reason"]) == ("Evaluating", "JobDeleted")
    made, body = planned(limited(body, "prune"), known, 210, **GONE)
    assert made.requeue_after == 125
    told = {**body, "status": {**body["status"], **published()}}
    assert planned(told, known, 220)[1]["status"]["phase"] == "Succeeded"
    assert planned(body, known, 335, **GONE)[1]["status"]["phase"] == "Pruned"


@pytest.mark.parametrize("by", LIMITS)
def test_a_cut_whose_record_is_lost_is_not_taken_back(by):
    """A CRD of before does not know the field, and the API server drops it."""
    body, known = evaluating()
    _, body = planned(limited(body, by), known, 1000)
    entries = [{**each} for each in body["status"]["stages"]]
    del entries[2]["cut"]
    body = {**body, "status": {**body["status"], "stages": entries}}
    rests = stopped(body, known, 1005)
    made, body = planned(body, rests, 1010)
    assert (made.then, made.requeue_after) == ((), 130)
    assert planned(body, rests, 1140)[1]["status"]["phase"] == ENDED_AS[by]
