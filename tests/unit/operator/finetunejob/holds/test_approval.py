"""A job that asks for an approval of its data waits for it, and trains on nothing else."""

from __future__ import annotations

import pytest

from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import CreateStage
from finetune_operator.finetunejob.state.decisions import (
    Decision,
    decide,
    read_decisions,
    trim_approval,
)
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
    job,
    live,
    merged,
    observe,
    reasons,
    running,
    stages_done,
    suspended,
)

DIGEST, OTHER = "d" * 64, "e" * 64


def decision(
    name="ok", *, digest=DIGEST, is_approval=True, by="ann", reason="", time="2026-11-24T12:00:01Z"
):
    return Decision(
        name=name, digest=digest, is_approval=is_approval, by=by, reason=reason, time=time
    )


REJECTION = decision(
    "no", is_approval=False, by="bob", reason="names of customers", time="2026-11-24T12:00:02Z"
)


def asking(**spec):
    sources = [{"uri": "s3://data/headlines.jsonl"}]
    return job(dataset={"sources": sources, "approval": "Required"}, **spec)


def prepared(**spec):
    """Return a job whose data set waits for a decision."""
    made, body = live([stages_done(PREPARE)], asking(**spec), at(60))
    return body


def look(body, *decisions, seconds=70, **known):
    """Plan with these decisions; return the plan and the object as stored."""
    known = merged(stages_done(PREPARE), known)
    made = plan(observe(body, decisions=decisions, **known), at(seconds), CONFIG)
    return made, after(body, made)


def created(made):
    return [action.stage for action in made.first if isinstance(action, CreateStage)]


def test_the_job_waits_after_prepare_and_says_for_what_and_how():
    made, body = live([stages_done(PREPARE)], asking(), at(60))
    assert created(made) == []
    assert body["status"]["phase"] == "AwaitingApproval"
    assert body["status"]["reason"] == "ApprovalRequired"
    told = condition(body, "DataApproved")
    assert told["status"] == "False"
    for text in (
        DIGEST,
        "450 training, 30 validation and 120 held-out rows",
        "finetune approve headlines -n team-a",
        "s3://models/datasets/dddd/report.html",
    ):
        assert text in told["message"]
    (event,) = [each for each in made.events if each.reason == "ApprovalRequired"]
    assert event.kind == "Normal"
    assert "dataApproval" not in body["status"]
    assert made.requeue_after is None, "a decision wakes the job by itself"


def test_a_job_that_does_not_ask_is_trained_at_once_whatever_was_decided():
    made, _ = live([stages_done(PREPARE)], job(), at(60))
    assert created(made) == [TRAIN]
    made = plan(observe(job(), decisions=None, **stages_done(PREPARE)), at(60), CONFIG)
    assert created(made) == [TRAIN]
    made, body = look(job(), REJECTION)
    assert created(made) == [TRAIN]
    assert condition(made, "DataApproved") is None


def test_an_approval_is_stored_before_it_is_acted_on_and_pinned_to_what_follows():
    made, body = look(prepared(), decision(reason="read 50 rows"))
    assert created(made) == []
    assert made.requeue_after == 0.0
    assert body["status"]["dataApproval"] == {
        "name": "ok",
        "decision": "Approved",
        "digest": DIGEST,
        "by": "ann",
        "reason": "read 50 rows",
        "time": "2026-11-24T12:00:01Z",
    }
    assert condition(body, "DataApproved")["status"] == "True"
    assert "dddddddddddd" in condition(body, "DataApproved")["message"]
    made, body = look(body, decision(reason="read 50 rows"), seconds=71)
    (action,) = made.first
    job_file = ["--job-digest", body["status"]["jobDigest"]]
    assert pinned(action) == [*job_file, "--data-digest", DIGEST]
    assert made.status is None
    train = {"jobs": {TRAIN: child(TRAIN, status=complete())}, "pods": stages_done(TRAIN)["pods"]}
    made, _ = look(body, **train)
    (action,) = made.first
    assert action.stage is EVALUATE
    assert pinned(action) == [*job_file, "--data-digest", DIGEST]


def pinned(action):
    (container,) = action.job["spec"]["template"]["spec"]["containers"]
    return container["args"][3:]


def test_an_approval_that_was_there_before_the_job_counts():
    done = stages_done(PREPARE)
    made, body = live(
        [{**done, "decisions": (decision(time="2026-11-24T12:00:00Z"),)}] * 2, asking(), at(60)
    )
    assert created(made) == [TRAIN]


@pytest.mark.parametrize("is_approval", [True, False])
def test_a_decision_on_other_data_does_not_count_and_the_status_says_so(is_approval):
    others = [
        decision(f"old-{n}", digest=OTHER, is_approval=is_approval, by=f"p{n}", time=f"{n}")
        for n in range(5)
    ]
    made, body = look(prepared(), *others)
    assert created(made) == []
    told = condition(body, "DataApproved")
    verb = "approved" if is_approval else "rejected"
    assert told["reason"] == body["status"]["reason"] == "OtherDataApproved"
    assert f"p4 {verb} eeeeeeeeeeee" in told["message"]
    assert "and 2 more" in told["message"]
    assert "OtherDataApproved" in reasons(made)
    made, body = look(body, *others, decision())
    assert condition(body, "DataApproved")["status"] == "True"


def test_a_rejection_ends_the_job_with_its_reason():
    made, body = look(prepared(), REJECTION)
    assert created(made) == []
    status = body["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "DataRejected")
    for kind in ("Failed", "Stalled"):
        assert condition(body, kind)["reason"] == "DataRejected"
        assert "bob" in condition(body, kind)["message"]
        assert "dddddddddddd" in condition(body, kind)["message"]
        assert "names of customers" in condition(body, kind)["message"]
        assert "finetune retry headlines -n team-a" in condition(body, kind)["message"]
    assert condition(body, "DatasetReady")["status"] == "True", "the data set itself is whole"
    failure = status["lastFailure"]
    assert (failure["class"], failure["stage"]) == ("DataError", "prepare")
    assert status["dataApproval"]["decision"] == "Rejected"
    assert status["dataset"]["digest"] == DIGEST
    assert reasons(made).count("DataRejected") == 1


@pytest.mark.parametrize("order", [(decision(), REJECTION), (REJECTION, decision())])
def test_a_rejection_outweighs_an_approval_also_one_on_record(order):
    made, body = look(prepared(), *order)
    assert body["status"]["phase"] == "Failed"
    _, body = look(prepared(), decision())
    made, body = look(body, decision(), REJECTION)
    assert body["status"]["phase"] == "Failed"
    assert body["status"]["dataApproval"]["by"] == "bob"


def test_a_rejection_ends_a_suspended_job_too():
    _, body = look(suspended(prepared()), REJECTION)
    assert body["status"]["phase"] == "Failed"


def test_an_approval_withdrawn_before_training_holds_the_job_again():
    _, body = look(prepared(), decision())
    made, body = look(body)
    assert created(made) == []
    assert condition(body, "DataApproved")["reason"] == "ApprovalRequired"
    assert "dataApproval" not in made.status
    _, body = look(body, decision(), decision("second", by="cy", time="2026-11-24T12:00:03Z"))
    made, body = look(body, decision("second", by="cy", time="2026-11-24T12:00:03Z"))
    assert created(made) == [], "another one lets it go on, and is stored first"
    assert body["status"]["dataApproval"]["by"] == "cy"
    made, _ = look(body, decision("second", by="cy", time="2026-11-24T12:00:03Z"))
    assert created(made) == [TRAIN]


@pytest.mark.parametrize("late", [(), (REJECTION,)], ids=["withdrawn", "rejected"])
def test_what_is_decided_after_training_began_changes_nothing(late):
    _, body = look(prepared(), decision())
    training = {"jobs": {TRAIN: child(TRAIN, status=running())}}
    made, body = look(body, *late, **training)
    assert body["status"]["phase"] == "Training"
    assert condition(body, "DataApproved")["status"] == "True"
    assert body["status"]["dataApproval"]["by"] == "ann"
    assert made.then == ()


def test_a_held_job_has_no_place_in_a_queue_and_its_time_does_not_count():
    body = prepared(queueName="team-a", activeDeadlineSeconds=120)
    made, body = look(body, seconds=100_000, has_kueue=True)
    assert created(made) == []
    assert made.then == ()
    assert body["status"]["phase"] == "AwaitingApproval"
    assert condition(body, "QuotaReserved") is None
    assert "queue" not in body["status"]
    _, body = look(body, decision(), seconds=100_001, has_kueue=True)
    made, _ = look(body, decision(), seconds=100_002, has_kueue=True)
    assert created(made) == [TRAIN]


def test_a_suspended_job_follows_what_is_decided_meanwhile():
    body = suspended(prepared())
    made, body = look(body, decision())
    assert body["status"]["phase"] == "Suspended"
    assert condition(body, "DataApproved")["status"] == "True"
    made, body = look(body, decision())
    assert created(made) == []
    awake = {**body, "spec": {**body["spec"], "suspend": False}}
    made, body = look(awake, decision())
    assert created(made) == [TRAIN]


def test_where_approvals_cannot_be_read_the_job_waits_and_says_what_is_missing():
    known = {**stages_done(PREPARE), "decisions": None}
    made, body = live([known], asking(), at(60))
    assert created(made) == []
    assert body["status"]["phase"] == "AwaitingApproval"
    assert body["status"]["reason"] == "ApprovalsNotRead"
    assert "CustomResourceDefinition" in condition(body, "DataApproved")["message"]
    made, body = look(body, decision())
    made, body = look(body, decision())
    assert created(made) == [TRAIN]


def test_prepare_runs_again_if_the_digest_to_approve_was_lost_with_its_pod():
    gone = {"jobs": {PREPARE: child(PREPARE, status=complete())}}
    made, body = live([gone], asking(), at(120))
    (action,) = made.first
    assert action.job["metadata"]["name"] == "headlines-prepare-2"
    made, _ = live([gone], job(), at(120))
    assert created(made) == [TRAIN], "who needs no approval needs no digest"


def test_a_digest_that_nobody_knows_cannot_be_approved():
    entry = {
        "name": "prepare",
        "job": "headlines-prepare",
        "completionTime": "2026-11-24T12:00:00Z",
    }
    body = {**asking(), "status": {"stages": [entry], "conditions": []}}
    made = plan(observe(body, decisions=(decision(),)), at(60), CONFIG)
    assert created(made) == []
    assert "create the job anew" in condition(made, "DataApproved")["message"]


def approval(**changes):
    spec = {"job": "headlines", "subject": "DataSet", "digest": DIGEST, "decision": "Approved",
            "by": "ann"}  # fmt: skip
    metadata = {"name": "a", "namespace": "team-a", "creationTimestamp": "2026-11-24T12:00:00Z"}
    for path, value in changes.items():
        part, _, key = path.partition("__")
        {"spec": spec, "metadata": metadata}[part][key] = value
    return trim_approval({"metadata": metadata, "spec": spec})


@pytest.mark.parametrize(
    "changes",
    [
        {"spec__subject": "Weather"},
        {"spec__decision": "Perhaps"},
        {"spec__digest": None},
        {"metadata__deletionTimestamp": "2026-11-24T12:00:00Z"},
    ],
)
def test_only_what_is_wholly_understood_is_a_decision(changes):
    assert read_decisions([approval(**changes)]) == ()


def test_decisions_are_read_in_the_order_of_their_time_and_the_first_rejection_decides():
    later = "2026-11-24T13:00:00Z"
    made = read_decisions(
        [
            approval(
                metadata__name="c", spec__decision="Rejected", metadata__creationTimestamp=later
            ),
            approval(
                metadata__name="b", spec__decision="Rejected", metadata__creationTimestamp=later
            ),
            approval(),
        ]
    )
    assert [each.name for each in made] == ["a", "b", "c"]
    assert decide(made, DIGEST).name == "b"
    assert decide(made[:1], DIGEST).name == "a"
    assert decide(made, OTHER) is None
