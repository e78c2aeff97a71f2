"""Who asks for a job is named on demand, and told that their own approval would not count."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_cli.app import app
from finetune_cli.cluster.approval import check_counts, describe_data
from finetune_cli.cluster.client import Cluster
from finetune_cli.errors import CliError
from finetune_cli.views.job import decision_text, describe
from finetune_cli.views.layout import current_time
from kit.cases.spec_cases import changed, minimal_job

RITA, BOB = "rita@example.org", "system:serviceaccount:team-a:bob"
EVALUATION = "e" * 64
STRICT = {"required": ["DataSet", "Publication"], "requesterMayApprove": False}


def asked(by: str | None = RITA, **status: Any) -> dict[str, Any]:
    body = changed(minimal_job("headlines"), {"metadata.namespace": "team-a"})
    if by is not None:
        body["spec"]["requestedBy"] = by
    body["status"] = {"dataset": {"digest": "d" * 64}, "approvalPolicy": STRICT, **status}
    return body


class FakeCluster:
    """One job, and a user; what is sent is kept."""

    namespace = "team-a"

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.user = BOB
        self.sent: list[dict[str, Any]] = []

    def user_name(self) -> str:
        return self.user

    def get_job(self, name: str) -> dict[str, Any]:
        return copy.deepcopy(self.job)

    find_job = get_job

    def list_jobs(self) -> dict[str, Any]:
        return {"items": [self.job]}

    def apply_job(self, body: dict[str, Any], **_: Any) -> tuple[dict[str, Any], str]:
        self.sent.append(body)
        return body, "created"

    def create_approval(self, body: dict[str, Any]) -> dict[str, Any]:
        self.sent.append(body)
        return body


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster(asked())
    monkeypatch.setattr(Cluster, "connect", lambda **_: made)
    return made


def run(*arguments: str) -> None:
    app([*arguments], standalone_mode=False)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(minimal_job("headlines")))
    return path


def test_decimals_without_quotes_are_sent_as_text(cluster: FakeCluster, job_file: Path) -> None:
    goal = "  goal: {metric: exactMatch, atLeast: 0.90}\n  hyperparameters: {epochs: 3}\n"
    job_file.write_text(job_file.read_text().replace("spec:\n", f"spec:\n{goal}"))
    run("submit", str(job_file))
    (sent,) = cluster.sent
    assert sent["spec"]["goal"]["atLeast"] == "0.90"
    assert sent["spec"]["hyperparameters"]["epochs"] == "3"


def test_a_name_is_written_only_where_it_is_asked_for_and_then_shown(
    cluster: FakeCluster, job_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("submit", str(job_file))
    assert BOB not in capsys.readouterr().err
    run("submit", str(job_file), "--name-requester")
    assert f"requested by {BOB}" in capsys.readouterr().err
    assert [body["spec"].get("requestedBy") for body in cluster.sent] == [None, BOB]


def test_a_file_in_another_name_is_not_sent_as_ones_own(
    cluster: FakeCluster, job_file: Path
) -> None:
    job_file.write_text(yaml.safe_dump(changed(minimal_job(), {"spec.requestedBy": RITA})))
    with pytest.raises(CliError, match=f"requested by {RITA}, and the cluster knows you as"):
        run("submit", str(job_file), "--name-requester")
    assert cluster.sent == []


@pytest.mark.parametrize(("by", "named"), [(RITA, BOB), (None, None)])
def test_a_retry_is_asked_for_by_who_retries_where_the_job_named_somebody(
    by: str | None, named: str | None, cluster: FakeCluster
) -> None:
    cluster.job = asked(by, phase="Failed", conditions=[{"type": "Failed", "status": "True"}])
    run("retry", "headlines", "--fresh")
    (body,) = cluster.sent
    assert body["spec"].get("requestedBy") == named


@pytest.mark.parametrize(
    ("user", "is_approval", "policy", "counts"),
    [
        (RITA, True, STRICT, False),
        (RITA, False, STRICT, True),
        (BOB, True, STRICT, True),
        (RITA, True, {}, True),
        ("Rita@example.org", True, STRICT, True),
    ],
)
def test_what_would_not_count_is_refused_before_it_is_sent(
    user: str, is_approval: bool, policy: dict[str, Any], counts: bool
) -> None:
    job = asked(approvalPolicy=policy)
    check_counts(None, user, is_approval=is_approval)
    if counts:
        check_counts(job, user, is_approval=is_approval)
        return
    with pytest.raises(CliError, match="nobody approves a request of their own"):
        check_counts(job, user, is_approval=is_approval)


def test_the_requester_may_reject_and_not_approve(cluster: FakeCluster) -> None:
    cluster.user = RITA
    with pytest.raises(CliError, match="would not count"):
        run("approve", "headlines", "--yes")
    run("approve", "headlines", "--yes", "--reject", "--reason", "names")
    assert [body["spec"]["decision"] for body in cluster.sent] == ["Rejected"]


def evaluated(reason: str) -> dict[str, Any]:
    published = {"type": "Published", "status": "False", "reason": reason, "message": "waits"}
    evaluation = {"digest": EVALUATION, "scores": [], "reportUri": "s3://m/report.html"}
    return asked(conditions=[published], evaluation=evaluation)


def test_a_candidate_that_waits_for_a_decision_is_published_or_rejected(
    cluster: FakeCluster,
) -> None:
    cluster.job = evaluated("PublicationApprovalRequired")
    run("publish", "headlines", "--reason", "read 20 answers", "--yes")
    cluster.job = evaluated("ApprovedByRequester")
    run("publish", "headlines", "--reject", "--reason", "rude", "--yes")
    assert [(b["spec"]["decision"], b["spec"]["digest"]) for b in cluster.sent] == [
        ("Approved", EVALUATION),
        ("Rejected", EVALUATION),
    ]
    assert {b["spec"]["subject"] for b in cluster.sent} == {"Publication"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--reason", "x"), "waits for no decision"),
        (("--reject",), "--reject needs --reason"),
        (("--reject", "--override", "--reason", "x"), "exclude each other"),
    ],
)
def test_what_is_no_decision_is_refused(
    arguments: tuple[str, ...], said: str, cluster: FakeCluster
) -> None:
    cluster.job = evaluated("GoalNotMet")
    with pytest.raises(CliError, match=said):
        run("publish", "headlines", *arguments, "--yes")
    assert cluster.sent == []


def test_requester_and_policy_are_part_of_the_description() -> None:
    text = "\n".join(describe(asked(), [], current_time()))
    assert f"Requested by: {RITA}" in text.replace("  ", "")
    assert "the namespace's policy asks for one of DataSet, Publication" in text
    assert "the requester's own do not count" in text
    assert f"asked by  {RITA}" in describe_data(asked(), "d" * 64)
    assert "does not wait" not in "\n".join(describe_data(asked(), "d" * 64))
    assert decision_text(asked()).startswith("none yet: ")
    own = {"type": "DataApproved", "status": "False", "reason": "ApprovedByRequester"}
    assert decision_text(asked(conditions=[own])) == (
        "none yet that counts: finetune approve headlines"
    )
