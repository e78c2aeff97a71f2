"""Who asks for a job does not approve it where the administrator says so, and what is approved."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from finetune_api.protocol.publication import Publication
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_api.v1alpha1.finetunesweep import FineTuneSweep
from finetune_api.v1alpha1.status.job import ApprovalPolicyStatus
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import CreateStage
from finetune_operator.finetunejob.state.decisions import ApprovalPolicy, Decision
from finetune_operator.finetunesweep.trials.checking import find_fault
from finetune_operator.finetunesweep.trials.observed import Observed as SweepObserved
from kit.builders.jobs import (
    CONFIG,
    EVALUATE,
    PREPARE,
    TRAIN,
    after,
    at,
    condition,
    ended,
    job,
    observe,
    reasons,
    stages_done,
    succeeded,
)
from kit.builders.sweeps import SweepWorld, sweep
from kit.cluster.simulation import result_of

PUBLISH = Stage.PUBLISH
RITA, BOB, ROBOT = "rita@example.org", "bob@example.org", "system:serviceaccount:team-a:ci"
DATA, EVALUATION = "d" * 64, "e" * 64
STRICT = CONFIG.model_copy(update={"requester_may_approve": False})
BOTH = STRICT.model_copy(update={"require_approval": ["Publication", "DataSet"]})
SOURCES = [{"uri": "s3://data/headlines.jsonl"}]
ASKING = {"sources": SOURCES, "approval": "Required"}


def on_data(name, by, *, is_approval=True, digest=DATA, second=1):
    time = f"2026-11-24T12:00:0{second}Z"
    return Decision(
        name=name, digest=digest, is_approval=is_approval, by=by, reason="seen", time=time
    )


def on_candidate(name, by, *, second=1, **more):
    made = replace(on_data(name, by, second=second), subject="Publication", digest=EVALUATION)
    return replace(made, **more)


def passed():
    """Return the children of a job whose candidate passed and was left unpublished by its pod."""
    unpublished = result_of(EVALUATE).model_copy(update={"version": None, "manifest_uri": ""})
    text = TerminationMessage(stage=EVALUATE, exit_code=0, result=unpublished).to_text()
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = (ended(EVALUATE, 0, text),)
    return known


def settle(body, config, known=None, *, seconds=60, rounds=6):
    """Plan until nothing is to be written; return the last plan and the object as stored."""
    for _ in range(rounds):
        made = plan(observe(body, **(known or {})), at(seconds), config)
        if made.status is None:
            return made, body
        body = after(body, made)
    raise AssertionError("the status never comes to rest")


def created(made):
    return [action.stage for action in made.first if isinstance(action, CreateStage)]


def job_file(made):
    (action,) = made.first
    (config_map,) = action.needs
    return ResolvedJob.from_json(config_map["data"]["job.json"])


def accepted(config, **spec):
    """Return a job as stored once the operator has accepted it, and the plan that begins it."""
    made, body = settle(job(**spec), config)
    return made, body


# ---- who asks ------------------------------------------------------------------------------------


def test_a_job_that_names_nobody_is_refused_where_requesters_may_not_approve():
    made = plan(observe(job()), at(1), STRICT)
    assert condition(made, "Accepted")["reason"] == "RequesterNotNamed"
    assert "spec.requestedBy" in condition(made, "Accepted")["message"]
    assert made.status["phase"] == "Failed"
    assert created(made) == []


def test_a_job_that_names_nobody_runs_where_requesters_may_approve():
    made = plan(observe(job()), at(1), CONFIG)
    assert created(made) == [PREPARE]
    assert "approvalPolicy" not in (made.status or {})


def test_what_is_asked_is_stored_before_anything_is_created_and_holds_for_the_jobs_life():
    first = plan(observe(job(requestedBy=RITA)), at(1), BOTH)
    assert first.first == ()
    assert first.requeue_after == 0.0
    asked = {"required": ["DataSet", "Publication"], "requesterMayApprove": False}
    assert first.status["approvalPolicy"] == asked
    assert condition(first, "Accepted") is None
    body = after(job(requestedBy=RITA), first)
    assert job_file(plan(observe(body), at(2), BOTH)).required_approvals == list(asked["required"])
    # The operator restarts with another configuration before it has accepted the job.
    again = plan(observe(body), at(2), CONFIG)
    assert again.first == ()
    assert "approvalPolicy" not in again.status
    _, body = accepted(BOTH, requestedBy=RITA)
    for later in (CONFIG, STRICT, BOTH):
        made, body = settle(body, later, stages_done(PREPARE), seconds=61)
        assert body["status"]["approvalPolicy"] == asked
        assert created(made) == []


@pytest.mark.parametrize("dataset", [ASKING, {"sources": SOURCES}])
def test_a_job_that_was_accepted_before_keeps_what_held_then(dataset):
    _, body = accepted(CONFIG, dataset=dataset)
    known = {**stages_done(PREPARE), "decisions": (on_data("own", RITA),)}
    made, body = settle(body, BOTH, known)
    assert created(made) == [TRAIN]
    assert "approvalPolicy" not in body["status"]


def test_the_requesters_name_reaches_no_stage():
    made, _ = accepted(BOTH, requestedBy=RITA)
    assert RITA not in json.dumps(made.first[0].needs)
    assert RITA not in json.dumps(made.first[0].job)


# ---- whose approval counts -----------------------------------------------------------------------


@pytest.mark.parametrize("requester", [RITA, ROBOT])
def test_the_requesters_own_approval_of_the_data_does_not_count_and_the_status_says_so(requester):
    _, body = accepted(STRICT, requestedBy=requester, dataset=ASKING)
    known = {**stages_done(PREPARE), "decisions": (on_data("own-yes", requester),)}
    made, body = settle(body, STRICT, known)
    assert created(made) == []
    assert body["status"]["phase"] == "AwaitingApproval"
    assert body["status"]["reason"] == "ApprovedByRequester"
    told = condition(body, "DataApproved")
    assert told["status"] == "False"
    assert "FineTuneApproval own-yes" in told["message"]
    assert repr(requester) in told["message"]
    assert "dataApproval" not in body["status"]
    # Somebody else's later decision counts.
    known["decisions"] += (on_data("others-yes", BOB, second=2),)
    made, body = settle(body, STRICT, known)
    assert created(made) == [TRAIN]
    assert body["status"]["dataApproval"]["name"] == "others-yes"


def test_an_approval_that_does_not_count_is_announced_once():
    _, body = accepted(STRICT, requestedBy=RITA, dataset=ASKING)
    known = {**stages_done(PREPARE), "decisions": (on_data("own-yes", RITA),)}
    made = plan(observe(body, **known), at(60), STRICT)
    assert "ApprovedByRequester" in reasons(made)
    body = after(body, made)
    known["decisions"] += (on_data("own-again", RITA, second=2),)
    assert reasons(plan(observe(body, **known), at(61), STRICT)) == []


def test_the_requesters_rejection_counts():
    _, body = accepted(STRICT, requestedBy=RITA, dataset=ASKING)
    decisions = (on_data("no", RITA, is_approval=False), on_data("yes", BOB))
    _, body = settle(body, STRICT, {**stages_done(PREPARE), "decisions": decisions})
    assert body["status"]["reason"] == "DataRejected"


@pytest.mark.parametrize(
    ("by", "counts"),
    [
        (RITA, False),
        ("Rita@example.org", True),
        ("rita@example.org ", True),
        ("r\u0456ta@example.org", True),
        ("system:serviceaccount:team-a:rita@example.org", True),
    ],
)
def test_names_are_equal_in_every_character_or_not_at_all(by, counts):
    policy = ApprovalPolicy(requester_may_approve=False)
    assert policy.counts(on_data("yes", by), RITA) is counts


def test_where_the_requester_is_not_known_and_may_not_approve_no_approval_counts():
    policy = ApprovalPolicy(requester_may_approve=False)
    assert not policy.counts(on_data("yes", BOB), None)
    assert policy.counts(on_data("no", BOB, is_approval=False), None)


def test_an_approver_who_makes_the_job_anew_as_their_own_does_not_profit_from_their_approval():
    """The decision names job and digest, and was there before the job."""
    early = {**stages_done(PREPARE), "decisions": (on_data("yes", BOB, second=0),)}
    for requester, trains in ((RITA, [TRAIN]), (BOB, [])):
        _, body = accepted(STRICT, requestedBy=requester, dataset=ASKING)
        assert created(settle(body, STRICT, early)[0]) == trains


def test_a_name_that_would_hide_in_a_terminal_is_shown_escaped():
    sly = "rita\u202e\u200b@example.org"
    _, body = accepted(STRICT, requestedBy=sly, dataset=ASKING)
    known = {**stages_done(PREPARE), "decisions": (on_data("own", sly),)}
    message = condition(settle(body, STRICT, known)[1], "DataApproved")["message"]
    assert "rita\\u202e\\u200b@example.org" in message


# ---- what has to be approved ---------------------------------------------------------------------


def test_the_policy_has_the_data_approved_whatever_the_job_says():
    data_only = CONFIG.model_copy(update={"require_approval": ["DataSet"]})
    _, body = accepted(data_only)
    known = stages_done(PREPARE)
    made, body = settle(body, data_only, known)
    assert created(made) == []
    assert body["status"]["reason"] == "ApprovalRequired"
    assert "requireApproval" in condition(body, "DataApproved")["message"]
    made, body = settle(body, data_only, {**known, "decisions": (on_data("yes", BOB),)})
    (action,) = made.first
    (container,) = action.job["spec"]["template"]["spec"]["containers"]
    job_file = ["--job-digest", body["status"]["jobDigest"]]
    assert container["args"][3:] == [*job_file, "--data-digest", DATA]


def test_the_policy_holds_a_candidate_that_passed_until_somebody_else_approves():
    made, body = accepted(BOTH, requestedBy=RITA)
    assert job_file(made).publication is Publication.AFTER_APPROVAL
    known = {**passed(), "decisions": (on_data("yes", BOB),)}
    made, body = settle(body, BOTH, known)
    assert created(made) == []
    assert body["status"]["phase"] == "AwaitingApproval"
    assert body["status"]["reason"] == "PublicationApprovalRequired"
    assert condition(body, "GoalMet")["status"] == "True"
    assert EVALUATION in condition(body, "Published")["message"]
    known["decisions"] += (on_candidate("own", RITA),)
    made, body = settle(body, BOTH, known)
    assert created(made) == []
    assert body["status"]["reason"] == "ApprovedByRequester"
    assert "FineTuneApproval own" in condition(body, "Published")["message"]
    assert "publication" not in body["status"]
    known["decisions"] += (on_candidate("others", BOB, second=2),)
    made, body = settle(body, BOTH, known)
    (action,) = made.first
    assert action.stage is PUBLISH
    (container,) = action.job["spec"]["template"]["spec"]["containers"]
    assert {f"--decided-by={BOB}", "--approval=others"} <= set(container["args"])


@pytest.mark.parametrize("by", [RITA, BOB])
def test_a_rejection_by_anybody_ends_a_job_whose_publication_waits(by):
    _, body = accepted(BOTH, requestedBy=RITA)
    no = on_candidate("no", by, is_approval=False)
    _, body = settle(body, BOTH, {**passed(), "decisions": (on_data("yes", BOB), no)})
    assert body["status"]["reason"] == "PublicationRejected"


def test_a_policy_of_publication_that_cannot_read_decisions_waits_and_says_so():
    held = CONFIG.model_copy(update={"require_approval": ["Publication"]})
    _, body = accepted(held)
    made, body = settle(body, held, {**passed(), "decisions": None})
    assert created(made) == []
    assert body["status"]["reason"] == "ApprovalsNotRead"


def test_a_panels_result_that_the_requester_hands_in_does_not_count():
    review = {"review": {"required": True, "reviewers": 1}}
    _, body = accepted(STRICT, requestedBy=RITA, evaluation=review)
    known = {**passed(), "decisions": (on_candidate("own", RITA, panel="c" * 64),)}
    made, body = settle(body, STRICT, known)
    assert created(made) == []
    assert body["status"]["reason"] == "ApprovedByRequester"
    known["decisions"] += (on_candidate("others", BOB, panel="c" * 64),)
    assert created(settle(body, STRICT, known)[0]) == [PUBLISH]


def test_where_reviewers_are_users_each_of_them_names_the_same_result():
    held = CONFIG.model_copy(update={"reviewers_are_users": True})
    review = {"review": {"required": True, "reviewers": 2}}
    _, body = accepted(held, evaluation=review)
    assert body["status"]["approvalPolicy"]["reviewersAreUsers"] is True
    first, other = "c" * 64, "d" * 64
    known = {
        **passed(),
        "decisions": (
            on_candidate("one", RITA, panel=first),
            on_candidate("again", RITA, panel=first, second=2),
            on_candidate("elsewhere", BOB, panel=other, second=3),
        ),
    }
    made, body = settle(body, held, known)
    assert created(made) == []
    assert body["status"]["reason"] == "ReviewRequired"
    told = condition(body, "Published")["message"]
    assert told.startswith("1 of 2 reviewers ")
    assert first in told
    known["decisions"] += (on_candidate("two", BOB, panel=first, second=4),)
    made, body = settle(body, held, known)
    assert created(made) == [PUBLISH]
    assert body["status"]["publication"]["panel"] == first


def test_a_user_who_names_a_result_is_enough_where_reviewers_are_not_users():
    review = {"review": {"required": True, "reviewers": 2}}
    _, body = accepted(CONFIG, evaluation=review)
    known = {**passed(), "decisions": (on_candidate("one", RITA, panel="c" * 64),)}
    assert created(settle(body, CONFIG, known)[0]) == [PUBLISH]


def missed_job():
    _, body = accepted(STRICT, requestedBy=RITA)
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = (succeeded(EVALUATE, goal_met=False),)
    _, body = settle(body, STRICT, known, seconds=200)
    assert body["status"]["reason"] == "GoalNotMet"
    return body, known


def test_the_requester_cannot_publish_what_missed_and_the_status_says_so_once():
    body, known = missed_job()
    before = condition(body, "Published")["message"]
    known["decisions"] = (on_candidate("own", RITA),)
    made, body = settle(body, STRICT, known, seconds=300)
    assert made.first == ()
    told = condition(body, "Published")
    assert told["reason"] == "GoalNotMet"
    assert told["message"].startswith(before)
    assert told["message"].count("FineTuneApproval own") == 1
    known["decisions"] += (on_candidate("own-2", RITA, second=2),)
    _, body = settle(body, STRICT, known, seconds=301)
    assert condition(body, "Published")["message"].count("Not counted") == 1
    known["decisions"] += (on_candidate("others", BOB, second=3),)
    made, body = settle(body, STRICT, known, seconds=302)
    assert created(made) == [PUBLISH]
    assert body["status"]["publication"]["by"] == BOB


def test_a_job_that_has_ended_is_deleted_in_time_whatever_the_requester_approves():
    body, known = missed_job()
    body["spec"]["ttlSecondsAfterFinished"] = 60
    known["decisions"] = (on_candidate("own", RITA),)
    made = plan(observe(body, **known), at(10_000), STRICT)
    assert [type(each).__name__ for each in made.then] == ["DeleteSelf"]


def test_a_job_file_without_a_policy_is_what_it_was():
    made, _ = accepted(CONFIG)
    (config_map,) = made.first[0].needs
    assert "requiredApprovals" not in config_map["data"]["job.json"]


def test_the_record_fits_the_schema():
    asked = ApprovalPolicy.of_settings(BOTH)
    wire = ApprovalPolicyStatus.model_validate(asked.to_wire()).to_wire()
    assert ApprovalPolicy.of_status(wire) == asked


# ---- sweeps --------------------------------------------------------------------------------------


def refusal_of(body, config):
    made = SweepObserved(sweep=body, parsed=FineTuneSweep.from_stored(body), trials=())
    return find_fault(made, config)


def test_a_sweep_names_its_requester_for_its_trials():
    fault = refusal_of(sweep(), STRICT)
    assert fault.reason == "RequesterNotNamed"
    assert fault.message.startswith("spec.requestedBy: ")
    assert refusal_of(sweep(requestedBy=RITA), STRICT) is None
    assert refusal_of(sweep(), CONFIG) is None


async def test_every_trial_is_asked_for_by_who_asked_for_the_sweep():
    world = SweepWorld(sweep(requestedBy=RITA, parallelism=4), config=STRICT)
    await world.reconcile()
    assert len(world.jobs) == 4
    assert {job["spec"]["requestedBy"] for job in world.jobs.values()} == {RITA}
    # A trial is held to the policy as any job is.
    trial = {**world.jobs["rates-t1"]}
    trial["metadata"] |= {"uid": "u", "generation": 1}
    made = plan(observe(trial), at(1), STRICT)
    assert made.status["approvalPolicy"]["requesterMayApprove"] is False
