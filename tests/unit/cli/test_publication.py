"""What ``finetune publish`` decides on, and what it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.approval import FineTuneApproval
from finetune_cli.app import app
from finetune_cli.cluster.approval import make_approval
from finetune_cli.errors import CliError
from finetune_cli.local.publication import (
    describe_candidate,
    find_evaluation,
    next_attempt,
    publish_locally,
)
from kit.cases.spec_cases import minimal_job

DIGEST = "e" * 64


def job(**status: Any) -> dict[str, Any]:
    missed = {"type": "Published", "status": "False", "message": "exactMatch MISSED 0.7"}
    scores = [{"name": "exactMatch", "base": "0.1", "tuned": "0.7"}]
    evaluation = {"digest": DIGEST, "scores": scores, "reportUri": "s3://m/report.json"}
    body = minimal_job("headlines")
    body["status"] = {"phase": "Failed", "conditions": [missed], "evaluation": evaluation, **status}
    return body


def test_a_decision_names_the_evaluation_and_carries_the_reason() -> None:
    body = make_approval(
        job="headlines",
        namespace="team-a",
        digest=find_evaluation(job()),
        user="ann",
        is_approval=True,
        reason="a demo",
        subject="Publication",
    )
    spec = FineTuneApproval.from_wire(body).spec
    assert (spec.subject, spec.digest, spec.reason) == ("Publication", DIGEST, "a demo")
    assert body["metadata"]["name"].startswith("headlines-approved-publication-eeeeeeee-")
    assert describe_candidate(job()) == [
        "candidate   exactMatch 0.1 -> 0.7",
        "report      s3://m/report.json",
        "published   no: exactMatch MISSED 0.7",
    ]


@pytest.mark.parametrize(
    ("reason", "publication", "ends"),
    [
        ("GoalNotMet", {}, ""),
        ("Publishing", {"run": 1}, ""),
        ("PublishingFailed", {}, ""),
        ("PublishingFailed", {"name": "of a panel", "panel": "a" * 64}, ""),
        ("PublishingFailed", {"name": "made while the job waited for its review"}, "-2"),
        ("PublishingFailed", {"run": 1}, "-2"),
        ("JobDeleted", {"run": 2}, "-3"),
    ],
)
def test_one_person_decides_once_on_each_attempt_to_publish(
    reason: str, publication: dict[str, Any], ends: str
) -> None:
    published = {"type": "Published", "status": "False", "reason": reason}
    body = make_approval(
        job="headlines",
        namespace="team-a",
        digest=DIGEST,
        user="ann",
        is_approval=True,
        reason="the store is back",
        subject="Publication",
        attempt=next_attempt(job(conditions=[published], publication=publication)),
    )
    name = body["metadata"]["name"]
    who = hashlib.sha256(b"ann").hexdigest()[:8]
    assert name == f"headlines-approved-publication-eeeeeeee-{who}{ends}"
    FineTuneApproval.from_wire(body)


def test_a_publication_without_reason_is_no_decision() -> None:
    with pytest.raises(CliError, match="reason is required where subject is Publication"):
        make_approval(
            job="headlines",
            namespace="team-a",
            digest=DIGEST,
            user="ann",
            is_approval=True,
            reason=None,
            subject="Publication",
        )


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"evaluation": {}}, "has no evaluation that is known, it is Failed"),
        (
            {
                "conditions": [{"type": "Published", "status": "True"}],
                "artifact": {"version": 4},
            },
            "is published: version 4",
        ),
    ],
)
def test_what_cannot_be_published_is_told(status: dict[str, Any], said: str) -> None:
    with pytest.raises(CliError, match=said):
        find_evaluation(job(**status))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["headlines", "--override"], "--override needs --reason"),
        (["headlines"], "a cluster publishes what has passed by itself"),
    ],
)
def test_an_override_is_asked_for_by_name_and_with_a_reason(
    arguments: list[str], said: str
) -> None:
    with pytest.raises(CliError, match=said):
        app(["publish", *arguments], standalone_mode=False)


def test_nothing_is_published_here_that_was_not_evaluated(tmp_path: Path) -> None:
    from finetune_cli.files.documents import read_single
    from finetune_cli.local.job import plan_run
    from finetune_cli.views.display import PlainDisplay

    file = tmp_path / "job.yaml"
    file.write_text(
        "apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nmetadata: {name: a}\nspec:\n"
        "  model: {uri: 'hf://a/b'}\n  dataset: {sources: [{uri: 's3://a/b.jsonl'}]}\n"
    )
    planned = plan_run(read_single(str(file)), namespace="default", work_dir=tmp_path / "work")
    with pytest.raises(CliError, match="nothing was evaluated under file://"):
        publish_locally(planned, PlainDisplay(lambda _: None), reason="a demo")
