"""A candidate is published once nothing waits any more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_api.names import child_job_name
from finetune_api.protocol.publication import Publication, publication_of
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import ExitCode, FailureClass, Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.publication import publishing
from finetune_operator.finetunejob.publication.publishing import Wait, why_publishing_waits
from finetune_operator.finetunejob.state.actions import DeleteSelf
from finetune_operator.finetunejob.state.decisions import Decision
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.status.conditions import timestamp
from kit.builders.jobs import (
    CONFIG,
    EVALUATE,
    PREPARE,
    TRAIN,
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
    pod,
    running,
    stages_done,
    succeeded,
    trained,
    words,
)
from kit.cases.spec_cases import changed
from kit.cluster.simulation import result_of

PUBLISH = Stage.PUBLISH


def spec_of(body):
    return observe(body).parsed.spec


def test_nothing_stands_between_evaluation_and_publication_by_default():
    spec = spec_of(job())
    assert publication_of(spec, ()) is Publication.AT_ONCE
    assert why_publishing_waits(spec, {}, ()) == ()


def test_a_job_may_ask_for_an_approval_of_its_own_publication():
    spec = spec_of(job(output={"uri": "s3://models", "approval": "Required"}))
    assert publication_of(spec, ()) is Publication.AFTER_APPROVAL
    (wait,) = why_publishing_waits(spec, {}, ())
    assert wait.reason == "PublicationApprovalRequired"
    assert "output.approval" in wait.message


def test_everything_that_is_waited_for_is_told(monkeypatch):
    no, yes = Wait(reason="ReviewRequired", message="The panel has not decided."), None
    monkeypatch.setattr(publishing, "_ASKED", (lambda *_: no, lambda *_: yes))
    assert why_publishing_waits(spec_of(job()), {}, ()) == (no,)


# ---- a hold between evaluation and publication ---------------------------------------------------


@pytest.fixture
def held(monkeypatch):
    """Have every publication wait for somebody's decision, as a review would."""
    wait = Wait(reason="ReviewRequired", message="The panel has not decided.")
    monkeypatch.setattr(publishing, "_ASKED", (lambda *_: wait,))


def passed(**more):
    """Return the snapshot of a job whose candidate passed and was left unpublished by its pod."""
    unpublished = result_of(EVALUATE).model_copy(update={"version": None, "manifest_uri": ""})
    text = TerminationMessage(stage=EVALUATE, exit_code=0, result=unpublished).to_text()
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = (ended(EVALUATE, 0, text),)
    return merged(known, more)


def decision(*, is_approval=True, digest="e" * 64, name="yes", time="2026-11-24T12:00:01Z", **more):
    return Decision(name=name, subject="Publication", digest=digest, is_approval=is_approval,
                    by="ann", reason="pays $(AWS_SECRET_ACCESS_KEY)", time=time,
                    **more)  # fmt: skip


LATER = decision(name="later", time="2026-11-24T12:00:02Z")


def test_a_held_candidate_waits_without_an_end(held):
    made = plan(observe(trained(), **passed()), at(200), CONFIG)
    assert made.first == ()
    assert made.status["phase"] == "AwaitingApproval"
    assert made.status["reason"] == "ReviewRequired"
    assert made.status["evaluation"]["digest"] == "e" * 64
    assert condition(made, "GoalMet")["status"] == "True"
    published = condition(made, "Published")
    assert (published["status"], published["reason"]) == ("False", "ReviewRequired")
    _, body = live([passed()], trained(), at(200))
    assert plan(observe(body, **passed()), at(300), CONFIG).status is None


@pytest.mark.parametrize("not_counted", [{"digest": "f" * 64}, {"subject": "DataSet"}])
def test_a_decision_on_something_else_does_not_count(held, not_counted):
    made = decision()
    known = passed(decisions=(replace(made, **not_counted),))
    assert plan(observe(trained(), **known), at(200), CONFIG).first == ()


def test_a_yes_is_recorded_and_then_acted_on(held):
    known = passed(decisions=(decision(),))
    made = plan(observe(trained(), **known), at(200), CONFIG)
    assert made.first == ()
    assert made.status["publication"]["by"] == "ann"
    body = after(trained(), made)
    (action,) = plan(observe(body, **known), at(201), CONFIG).first
    assert action.job["metadata"]["name"] == "headlines-publish"
    container = action.job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][3:] == [
        *("--job-digest", body["status"]["jobDigest"]),
        f"--evaluation-digest={'e' * 64}",
        "--decided-by=ann",
        "--reason=pays $$(AWS_SECRET_ACCESS_KEY)",
        "--approval=yes",
    ]
    done = merged(known, stages_done(PUBLISH))
    made = plan(observe(body, **done), at(300), CONFIG)
    assert condition(made, "Complete")["status"] == "True"
    assert made.status["artifact"]["version"] == 1
    assert made.status["publication"]["name"] == "yes"


def test_a_no_ends_the_job_with_its_reason(held):
    known = passed(decisions=(decision(), decision(is_approval=False, name="no")))
    made = plan(observe(trained(), **known), at(200), CONFIG)
    assert condition(made, "Failed")["reason"] == "PublicationRejected"
    assert condition(made, "Published")["reason"] == "PublicationRejected"
    assert made.first == ()


# ---- a candidate that missed, and is published all the same --------------------------------------


def missed():
    """Return a job that has ended because its goal was missed, and its snapshot."""
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = (succeeded(EVALUATE, goal_met=False),)
    _, body = live([known], trained(), at(200))
    assert condition(body, "Failed")["reason"] == "GoalNotMet"
    return body, known


def overridden(run=1, end=60.0):
    found = result_of(PUBLISH, goal_met=False)
    found = found.model_copy(update={"version": 3, "manifest_uri": "s3://models/v/3"})
    text = TerminationMessage(stage=PUBLISH, exit_code=0, result=found).to_text()
    return {
        "jobs": {PUBLISH: child(PUBLISH, run=run, status=complete(end=end))},
        "pods": {PUBLISH: (ended(PUBLISH, 0, text),)},
    }


def under_way(body, known):
    """Return the job once Job publish is created and seen, as every reconcile sees it."""
    created = merged(known, {"jobs": {PUBLISH: child(PUBLISH, status=running(300))}})
    body = after(body, plan(observe(body, **created), at(301), CONFIG))
    assert body["status"]["stages"][-1]["name"] == "publish"
    return body


def test_nothing_is_written_after_the_end_without_a_decision():
    body, known = missed()
    for decisions in ((), None, (decision(is_approval=False),), (decision(digest="f" * 64),)):
        made = plan(observe(body, **known, decisions=decisions), at(300), CONFIG)
        assert (made.first, made.status, made.then) == ((), None, ())


def test_an_override_is_recorded_then_published_and_the_job_stays_failed():
    body, known = missed()
    known["decisions"] = (decision(),)
    made = plan(observe(body, **known), at(300), CONFIG)
    assert made.first == ()
    assert made.status["publication"] | {"time": ""} == {
        "name": "yes", "decision": "Approved", "digest": "e" * 64, "by": "ann", "run": 1,
        "reason": "pays $(AWS_SECRET_ACCESS_KEY)", "time": "",
    }  # fmt: skip
    assert condition(made, "Published")["reason"] == "Publishing"
    body = after(body, made)
    known["decisions"] = ()  # what becomes of the object later changes nothing
    (action,) = plan(observe(body, **known), at(301), CONFIG).first
    assert action.job["metadata"]["name"] == "headlines-publish"
    running_now = merged(known, {"jobs": {PUBLISH: child(PUBLISH, status=running())}})
    made = plan(observe(body, **running_now), at(302), CONFIG)
    assert (made.first, made.then) == ((), ())
    body = after(body, made)
    made = plan(observe(body, **merged(known, overridden())), at(400), CONFIG)
    body = after(body, made)
    published = condition(body, "Published")
    assert (published["status"], published["reason"]) == ("True", "Overridden")
    assert "ann decided so" in published["message"]
    assert body["status"]["artifact"]["version"] == 3
    assert condition(body, "Failed")["status"] == "True"
    assert body["status"]["phase"] == "Failed"
    made = plan(observe(body, **merged(known, overridden())), at(500), CONFIG)
    assert (made.first, made.status, made.then) == ((), None, ())


def test_a_publication_that_cannot_be_created_says_why_once_and_is_tried_again():
    body, known = missed()
    body = after(body, plan(observe(body, **known, decisions=(decision(),)), at(300), CONFIG))
    no = Refusal(reason="Forbidden", message="exceeded quota: cpu", is_final=False,
                 retry_seconds=4.0)  # fmt: skip
    made = plan(observe(body, **known, refusals={PUBLISH: no}), at(301), CONFIG)
    published = condition(made, "Published")
    assert (published["status"], published["reason"]) == ("False", "Publishing")
    assert published["message"].endswith(": exceeded quota: cpu")
    assert [event.reason for event in made.events] == ["Forbidden"]
    body = after(body, made)
    again = plan(observe(body, **known, refusals={PUBLISH: no}), at(305), CONFIG)
    assert (again.status, again.events, again.requeue_after) == (None, (), 4.0)
    (action,) = plan(observe(body, **known), at(309), CONFIG).first
    assert action.job["metadata"]["name"] == "headlines-publish"


def test_a_job_whose_time_is_over_is_not_deleted_while_it_is_being_published():
    body, known = missed()
    body = after(body, plan(observe(body, **known, decisions=(decision(),)), at(300), CONFIG))
    body["spec"]["ttlSecondsAfterFinished"] = 60
    running_now = merged(known, {"jobs": {PUBLISH: child(PUBLISH, status=running())}})
    made = plan(observe(body, **running_now), at(3000), CONFIG)
    assert (made.then, made.requeue_after) == ((), None)
    made = plan(observe(body, **merged(known, overridden())), at(3100), CONFIG)
    assert (condition(made, "Published")["reason"], made.requeue_after) == ("Overridden", 0.0)
    body = after(body, made)
    made = plan(observe(body, **merged(known, overridden())), at(3101), CONFIG)
    assert DeleteSelf() in made.then


def test_the_words_of_a_publication_are_waited_for_before_anything_is_concluded():
    body, known = missed()
    body = after(body, plan(observe(body, **known, decisions=(decision(),)), at(300), CONFIG))
    body = under_way(body, known)
    unseen = merged(known, overridden(end=395))
    unseen["pods"][PUBLISH] = (pod(PUBLISH),)
    made = plan(observe(body, **unseen), at(400), CONFIG)
    body = after(body, made)
    assert (condition(body, "Published")["reason"], made.requeue_after) == ("Publishing", 1.0)
    made = plan(observe(body, **merged(known, overridden(end=395))), at(401), CONFIG)
    assert condition(made, "Published")["reason"] == "Overridden"


@pytest.mark.parametrize("was_seen_before_its_end", [True, False])
def test_a_publication_whose_words_are_lost_is_looked_up_again(was_seen_before_its_end):
    body, known = missed()
    made = plan(observe(body, **known, decisions=(decision(),)), at(300), CONFIG)
    body = after(body, made)
    if was_seen_before_its_end:
        body = under_way(body, known)
    lost = merged(known, overridden())
    lost["pods"][PUBLISH] = ()
    made = plan(observe(body, **lost), at(500), CONFIG)
    assert made.status["publication"]["run"] == 2
    body = after(body, made)
    (action,) = plan(observe(body, **lost), at(501), CONFIG).first
    assert action.job["metadata"]["name"] == "headlines-publish-2"
    made = plan(observe(body, **merged(known, overridden(run=2))), at(600), CONFIG)
    assert condition(made, "Published")["reason"] == "Overridden"
    assert made.status["artifact"]["version"] == 3


def test_a_publication_that_fails_is_told_and_another_decision_tries_again():
    body, known = missed()
    made = plan(observe(body, **known, decisions=(decision(),)), at(300), CONFIG)
    body = after(body, made)
    failed = {"jobs": {PUBLISH: child(PUBLISH, status=gone_wrong())}}
    failed["pods"] = {PUBLISH: (ended(PUBLISH, 73, ""),)}
    body = after(body, plan(observe(body, **merged(known, failed)), at(400), CONFIG))
    assert condition(body, "Published")["reason"] == "PublishingFailed"
    again = merged(known, failed)
    for tried in (decision(), decision(name="an earlier one", time="2026-11-24T12:00:00Z")):
        assert plan(observe(body, **again, decisions=(tried,)), at(500), CONFIG).status is None
    again["decisions"] = (decision(), LATER)
    made = plan(observe(body, **again), at(500), CONFIG)
    assert made.status["publication"]["run"] == 2


def gone_wrong():
    since = timestamp(at(390))
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    return {"startTime": since, "conditions": [{**failed, "lastTransitionTime": since}]}


MALFORMED = Refusal(reason="Invalid", message="spec.template: Invalid value", is_final=True)


def test_a_publication_that_the_server_refuses_for_good_is_tried_again_by_another_decision():
    body, known = missed()
    body = after(body, plan(observe(body, **known, decisions=(decision(),)), at(300), CONFIG))
    refused = {**known, "refusals": {PUBLISH: MALFORMED}}
    body = after(body, plan(observe(body, **refused), at(301), CONFIG))
    published = condition(body, "Published")
    assert (published["status"], published["reason"]) == ("False", "PublishingFailed")
    assert "Invalid: spec.template: Invalid value" in published["message"]
    known["decisions"] = (decision(), LATER)
    made = plan(observe(body, **known), at(500), CONFIG)
    assert made.status["publication"]["name"] == "later"


# ---- a review by people --------------------------------------------------------------------------

PANEL = "b" * 64


def reviewed_job(**review):
    settings = {"spec.evaluation.review": {"required": True, "reviewers": 2, **review}}
    return trained(changed(job(), settings))


def test_a_review_that_is_not_required_holds_nothing():
    optional = spec_of(changed(job(), {"spec.evaluation.review": {}}))
    assert publication_of(optional, ()) is Publication.AT_ONCE
    assert publication_of(optional, ("DataSet",)) is Publication.AT_ONCE
    assert publication_of(optional, ("Publication",)) is Publication.AFTER_APPROVAL
    for required in ((), ("Publication",)):
        assert publication_of(spec_of(reviewed_job()), required) is Publication.AFTER_REVIEW


def test_a_candidate_waits_for_its_review_and_says_where_the_page_lies():
    made = plan(observe(reviewed_job(), **passed()), at(200), CONFIG)
    published = condition(made, "Published")
    assert (published["status"], published["reason"]) == ("False", "ReviewRequired")
    assert "once 2 reviewer(s) have compared" in published["message"]
    assert "/review/page.html" in published["message"]
    assert (made.first, made.status["phase"]) == ((), "AwaitingApproval")


def test_the_panels_result_is_recorded_and_then_published_by_it():
    known = passed(decisions=(decision(panel=PANEL),))
    made = plan(observe(reviewed_job(), **known), at(200), CONFIG)
    assert made.first == ()
    assert made.status["publication"]["panel"] == PANEL
    body = after(reviewed_job(), made)
    (action,) = plan(observe(body, **known), at(201), CONFIG).first
    container = action.job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][-1] == f"--panel={PANEL}"
    made = plan(observe(body, **merged(known, stages_done(PUBLISH))), at(300), CONFIG)
    assert condition(made, "Complete")["status"] == "True"
    assert condition(made, "Published")["status"] == "True"


@pytest.mark.parametrize(
    ("decisions", "reason"),
    [
        ((decision(panel=PANEL, digest="f" * 64),), "ReviewRequired"),
        ((decision(panel=PANEL), decision(is_approval=False, name="no")), "PublicationRejected"),
        (None, "ApprovalsNotRead"),
    ],
)
def test_what_is_no_panels_yes_to_this_evaluation_publishes_nothing(decisions, reason):
    made = plan(observe(reviewed_job(), **passed(decisions=decisions)), at(200), CONFIG)
    assert made.first == ()
    assert condition(made, "Published")["reason"] == reason


def test_somebody_may_publish_without_the_review_and_goes_on_record():
    known = passed(decisions=(decision(),))
    made = plan(observe(reviewed_job(), **known), at(200), CONFIG)
    (action,) = plan(observe(after(reviewed_job(), made), **known), at(201), CONFIG).first
    assert not any("panel" in each for each in
                   action.job["spec"]["template"]["spec"]["containers"][0]["args"])  # fmt: skip


def test_a_panels_result_does_not_publish_what_missed():
    body, known = missed()
    known["decisions"] = (decision(panel=PANEL),)
    made = plan(observe(body, **known), at(300), CONFIG)
    assert (made.first, made.status) == ((), None)


def test_an_evaluation_whose_words_are_lost_is_read_again_and_still_waits_for_its_review():
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = (ended(EVALUATE, 0, ""),)
    (action,) = plan(observe(reviewed_job(), **known), at(200), CONFIG).first
    assert action.job["metadata"]["name"] == "headlines-publish"
    found = result_of(PUBLISH).model_copy(update={"version": None, "manifest_uri": ""})
    text = TerminationMessage(stage=PUBLISH, exit_code=0, result=found).to_text()
    read = merged(known, stages_done(PUBLISH))
    read["pods"][PUBLISH] = (ended(PUBLISH, 0, text),)
    made = plan(observe(reviewed_job(), **read), at(300), CONFIG)
    assert made.first == ()
    assert condition(made, "Published")["reason"] == "ReviewRequired"
    body = after(reviewed_job(), made)
    read["decisions"] = (decision(panel=PANEL),)
    made = plan(observe(body, **read), at(400), CONFIG)
    assert made.status["publication"]["panel"] == PANEL
    (action,) = plan(observe(after(body, made), **read), at(401), CONFIG).first
    assert action.job["metadata"]["name"] == "headlines-publish-2"


# ---- a candidate that passed, and whose publication failed ---------------------------------------

STORE_IS_AWAY = {
    "jobs": {PUBLISH: child(PUBLISH, status=gone_wrong())},
    "pods": {
        PUBLISH: (
            ended(PUBLISH, 73, words(PUBLISH, ExitCode.STORAGE, FailureClass.STORAGE_ERROR,
                                     "StorageUnavailable", "The store was away for 15 minutes")),
        )
    },
}  # fmt: skip


def in_publication():
    """Return a job whose candidate passed and is being published, and its snapshot."""
    known = passed(decisions=(decision(panel=PANEL),))
    body = after(reviewed_job(), plan(observe(reviewed_job(), **known), at(200), CONFIG))
    return body, known


@pytest.mark.parametrize(
    ("is_created", "trouble", "failed", "told"),
    [
        (True, STORE_IS_AWAY, "StorageError", "The store was away for 15 minutes"),
        (True, {"missing": frozenset({PUBLISH})}, "Internal", "11 times in a row"),
        (False, {"refusals": {PUBLISH: MALFORMED}}, "UserError", "spec.template: Invalid value"),
    ],
    ids=["its Job failed", "its Job was deleted again and again", "its Job is refused"],
)
def test_a_candidate_that_passed_and_was_not_published_is_published_by_another_decision(
    is_created, trouble, failed, told
):
    body, known = in_publication()
    body = under_way(body, known) if is_created else body
    for entry in body["status"]["stages"]:
        entry["fruitless"] = {"step": 0, "deletions": 10}
    body = after(body, plan(observe(body, **merged(known, trouble)), at(400), CONFIG))
    assert condition(body, "Failed")["reason"] == failed
    published = condition(body, "Published")
    assert (published["status"], published["reason"]) == ("False", "PublishingFailed")
    assert told in published["message"]
    assert "finetune publish headlines -n team-a --override --reason" in published["message"]
    left = {key: value for key, value in trouble.items() if key != "refusals"}
    known = merged(known, left)
    assert plan(observe(body, **known), at(500), CONFIG).status is None

    known["decisions"] = (*known["decisions"], LATER)
    made = plan(observe(body, **known), at(500), CONFIG)
    assert made.status["publication"]["name"] == "later"
    (event,) = made.events
    assert "FineTuneApproval later" in event.message
    assert (event.kind, event.reason) == ("Normal", "Publishing")
    run, body = made.status["publication"]["run"], after(body, made)
    (action,) = plan(observe(body, **known), at(501), CONFIG).first
    name = child_job_name("headlines", PUBLISH, 2 if is_created else 1)
    assert action.job["metadata"]["name"] == name

    done = stages_done(PUBLISH)
    done["jobs"][PUBLISH] = child(PUBLISH, run=run, status=complete())
    body = after(body, plan(observe(body, **merged(known, done)), at(600), CONFIG))
    published = condition(body, "Published")
    assert (published["status"], published["reason"]) == ("True", "Published")
    assert published["message"].startswith("Version 1: exactMatch 0.41 -> 0.93. ann ")
    assert body["status"]["artifact"]["version"] == 1
    assert condition(body, "Failed")["reason"] == failed
