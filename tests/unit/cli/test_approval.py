"""What ``finetune approve`` decides on, shows and writes."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.v1alpha1.approval import FineTuneApproval
from finetune_cli.cluster.approval import describe_data, find_digest, make_approval
from finetune_cli.errors import CliError
from finetune_cli.views.job import decision_text
from kit.cases.spec_cases import changed, minimal_job

DIGEST, OTHER = "d" * 64, "e" * 64


def waiting(**status: Any) -> dict[str, Any]:
    body = changed(minimal_job("headlines"), {"spec.dataset.approval": "Required"})
    dataset = {
        "digest": DIGEST,
        "uri": "s3://models/datasets/dddd",
        "rows": {"train": 450, "validation": 30, "test": 120},
        "numInvalidRows": 3,
        "numTruncatedRows": 2,
    }
    body["status"] = {"phase": "AwaitingApproval", "dataset": dataset, **status}
    return body


def test_the_digest_is_the_jobs_unless_one_was_looked_at_before_there_was_a_job() -> None:
    assert find_digest(waiting(), "headlines", None) == DIGEST
    assert find_digest(waiting(), "headlines", DIGEST) == DIGEST
    assert find_digest(None, "headlines", OTHER) == OTHER
    assert find_digest(waiting(dataset={}), "headlines", OTHER) == OTHER


ENDED = {"conditions": [{"type": "Failed", "status": "True"}], "phase": "Failed"}


@pytest.mark.parametrize(
    ("job", "asked", "said"),
    [
        (None, None, "there is no FineTuneJob headlines yet; name the data set"),
        (waiting(), OTHER, f"the data set of FineTuneJob headlines is {DIGEST}, not {OTHER}"),
        (waiting(dataset={}, phase="Preparing"), None, "not prepared yet, the job is Preparing"),
        (waiting(**ENDED), None, r"has ended \(Failed\): there is nothing to decide"),
    ],
)
def test_what_cannot_be_decided_on_is_told(job: Any, asked: str | None, said: str) -> None:
    with pytest.raises(CliError, match=said):
        find_digest(job, "headlines", asked)


def test_what_is_decided_on_is_shown_with_its_report() -> None:
    text = "\n".join(describe_data(waiting(), DIGEST))
    assert f"data set  {DIGEST}" in text
    assert "rows      450 training, 30 validation, 120 held-out; 3 left out, 2 over the" in text
    assert "report    s3://models/datasets/dddd/report.html" in text
    assert "does not wait" not in text
    free = changed(waiting(), {"spec.dataset.approval": "NotRequired"})
    assert "this job does not wait for an approval" in describe_data(free, DIGEST)[-1]
    assert describe_data(None, DIGEST) == [f"data set  {DIGEST}"]


def make(**changes: Any) -> dict[str, Any]:
    values = {
        "job": "headlines",
        "namespace": "team-a",
        "digest": DIGEST,
        "user": "system:serviceaccount:team-a:rita",
        "is_approval": True,
        "reason": None,
    }
    return make_approval(**{**values, **changes})


def test_one_person_decides_once_each_way() -> None:
    body = make()
    FineTuneApproval.from_wire(body)
    assert body["spec"]["decision"] == "Approved"
    assert "reason" not in body["spec"]
    names = [
        make()["metadata"]["name"],
        make(user="other")["metadata"]["name"],
        make(digest=OTHER)["metadata"]["name"],
        make(is_approval=False, reason="x")["metadata"]["name"],
    ]
    assert names[0] == body["metadata"]["name"]
    assert len(set(names)) == 4
    assert all(name.startswith("headlines-") and len(name) <= 253 for name in names)
    assert len(make(job="a" * 52)["metadata"]["name"]) <= 253


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"digest": "abc"}, r"spec.digest: Invalid value: .*64 hex digits"),
        ({"job": "Not_A_Name"}, "spec.job: Invalid value: .*lower-case letters"),
        ({"is_approval": False}, "spec.reason: Invalid value: reason is required"),
        ({"reason": "x" * 513}, "spec.reason: Too long"),
    ],
)
def test_what_a_cluster_would_refuse_is_not_sent(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CliError, match=said):
        make(**changes)


def test_the_decision_is_part_of_the_description() -> None:
    assert decision_text(waiting()) == "none yet: finetune approve headlines"
    assert decision_text(waiting(dataset={})) is None, "nothing to decide on yet"
    assert decision_text(minimal_job()) is None
    made = {"decision": "Approved", "by": "rita", "time": "2026-01-01T00:00:00Z", "reason": "fine"}
    assert decision_text(waiting(dataApproval=made)) == (
        "Approved by rita (2026-01-01T00:00:00Z): fine"
    )


def test_the_result_of_a_panel_is_named_beside_the_evaluation_and_only_of_a_publication() -> None:
    given = {"job": "headlines", "namespace": "a", "digest": DIGEST, "user": "ann", "panel": OTHER,
             "is_approval": True, "reason": "2 reviewers"}  # fmt: skip
    body = make_approval(**given, subject="Publication")  # type: ignore[arg-type]
    assert (body["spec"]["digest"], body["spec"]["panel"]) == (DIGEST, OTHER)
    assert body["metadata"]["name"].startswith(f"headlines-reviewed-{OTHER[:8]}-")
    with pytest.raises(CliError, match="panel is the result of a human review, which is of a"):
        make_approval(**given)  # type: ignore[arg-type]
    with pytest.raises(CliError, match="must be the whole digest of a panel's result"):
        make_approval(**{**given, "panel": "abc"}, subject="Publication")  # type: ignore[arg-type]
