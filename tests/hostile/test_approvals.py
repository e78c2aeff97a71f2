"""Forged approvals: a job trains only if somebody else, by exactly that name, approved its data."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.decisions import read_decisions, trim_approval
from kit.builders.jobs import CONFIG, PREPARE, TRAIN, at, job, observe, stages_done
from unit.operator.finetunejob.holds.test_requester import SOURCES, created, settle

Object = dict[str, Any]

MALLORY, RITA = "mallory@example.org", "rita@example.org"
DIGEST = "d" * 64
STRICT = CONFIG.model_copy(update={"requester_may_approve": False, "require_approval": ["DataSet"]})
NUM_ROUNDS = 150

# What the API server's schema would refuse is among them: an object may be older than the schema.
CHANGES: tuple[Object, ...] = (
    *({"by": name} for name in (MALLORY, MALLORY, MALLORY, RITA)),
    {"by": MALLORY.upper()},
    {"by": f" {MALLORY}"},
    {"by": MALLORY.replace("o", "\u043e", 1)},
    {"by": ""},
    {"by": None},
    {"digest": DIGEST.upper()},
    {"digest": "d" * 63},
    {"digest": f"{DIGEST} "},
    {"digest": "e" * 64},
    {"digest": ""},
    {"digest": None},
    {"subject": "Publication"},
    {"subject": "dataset"},
    {"subject": None},
    {"decision": "approved"},
    {"decision": "Rejected", "reason": "x"},
    {"decision": None},
    {"until": "2030-01-01T00:00:00Z"},
)


def forged(rng: Random, number: int) -> Object:
    """Return a FineTuneApproval that is changed in a few ways, most often as the requester's."""
    spec: Object = {"job": "headlines", "subject": "DataSet", "digest": DIGEST}
    spec |= {"decision": "Approved", "by": rng.choice([MALLORY, MALLORY, RITA])}
    for change in rng.sample(CHANGES, rng.randint(0, 2)):
        spec |= copy.deepcopy(change)
    metadata: Object = {"name": f"approval-{number}", "namespace": "team-a", "uid": f"u-{number}"}
    metadata["creationTimestamp"] = f"2026-11-24T12:00:{rng.randrange(60):02}Z"
    if rng.random() < 0.1:
        metadata["deletionTimestamp"] = metadata["creationTimestamp"]
    metadata["annotations"] = {"spec.by": RITA}
    return {"metadata": metadata, "spec": spec}


def is_let_through(approvals: list[Object]) -> bool:
    """Say by the words of the guide whether the data may be trained on."""
    counted = [
        each["spec"]
        for each in approvals
        if "deletionTimestamp" not in each["metadata"]
        and each["spec"]["subject"] == "DataSet"
        and each["spec"]["digest"] == DIGEST
    ]
    if any(each["decision"] == "Rejected" for each in counted):
        return False
    return any(
        each["decision"] == "Approved" and each["by"] != MALLORY for each in counted
    )  # names are opaque: one that only resembles the requester's is somebody else's


def test_no_forged_approval_lets_a_job_train_and_every_real_one_does():
    rng, seen = Random(7), set()
    dataset = {"sources": SOURCES, "approval": "NotRequired"}
    _, accepted = settle(job(requestedBy=MALLORY, dataset=dataset), STRICT, {})
    _, waiting = settle(accepted, STRICT, stages_done(PREPARE))
    assert waiting["status"]["phase"] == "AwaitingApproval"
    for number in range(NUM_ROUNDS):
        approvals = [forged(rng, each) for each in range(rng.randint(1, 3))]
        decisions = read_decisions([trim_approval(each) for each in approvals])
        known = {**stages_done(PREPARE), "decisions": decisions}
        body, trains = waiting, False
        for _ in range(4):
            made = plan(observe(body, **known), at(70), STRICT)
            trains = trains or TRAIN in created(made)
            if made.status is None or trains:
                break
            _, body = settle(body, STRICT, known, seconds=70)
        assert trains is is_let_through(approvals), (number, approvals)
        seen.add(trains)
    assert seen == {True, False}
