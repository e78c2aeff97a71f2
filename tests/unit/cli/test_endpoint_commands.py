"""`finetune endpoint` as a person runs it, over a cluster that is made up."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.cluster.client import Cluster
from finetune_cli.errors import CliError
from finetune_cli.files.documents import to_yaml
from finetune_cli.views import endpoint as endpointview
from finetune_cli.views.state import state_text
from kit.cases.endpoint_cases import minimal_endpoint
from kit.reports.judged_text import judge_text

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
AT = "2026-11-29T11:00:00Z"
READY = {
    "type": "Available",
    "status": "True",
    "reason": "Serving",
    "message": "Version 3 answers.",
}


def served(version: int, **more: Any) -> dict[str, Any]:
    return {
        "version": version,
        "adapter": f"default.headlines-v{version}",
        "server": "fts-0123456789ab",
        "baseModel": "hf://org/model",
        "sha256": f"{version}" * 64,
        "verifiedTime": AT,
        **more,
    }


def made_endpoint() -> dict[str, Any]:
    body = minimal_endpoint("headlines")
    body["metadata"] |= {"namespace": "default", "generation": 1, "creationTimestamp": AT}
    body["status"] = {
        "observedGeneration": 1,
        "phase": "Available",
        "reason": "Serving",
        "url": "http://finetune-front.default.svc/v1",
        "model": "headlines",
        "conditions": [{**READY, "lastTransitionTime": AT}],
        "active": served(3, since=AT),
        "previous": served(2, since=AT),
    }
    return body


COUNTS = {"requests": 1200, "asked": 1300, "users": 40}
CANDIDATE = served(
    4,
    weight=25,
    streams=[
        {"front": "a", "weight": 5, "active": COUNTS, "candidate": {"requests": 60}},
        {"front": "b", "weight": 25, "active": COUNTS, "candidate": {"requests": 300}},
    ],
    evidence=[
        {"signal": "All", "logE": "1.5"},
        {"signal": "Errors", "logE": "2.25", "active": 6, "candidate": 5},
    ],
)
REFUSED = {
    "version": 4,
    "sha256": "4" * 64,
    "reason": "AnswersLikeBase",
    "message": "48 of 50 answers are the base model's",
    "time": AT,
}


class FakeCluster:
    """One endpoint; what is changed is kept."""

    namespace = "default"

    def __init__(self) -> None:
        self.endpoint = made_endpoint()
        self.patches: list[tuple[str, Any]] = []

    def roll_out(self) -> None:
        self.endpoint["status"] |= {"candidate": CANDIDATE, "phase": "RollingOut"}

    def get(self, kind: str, name: str) -> dict[str, Any]:
        assert kind == "finetuneendpoint"
        if name != "headlines":
            raise CliError(f"no FineTuneEndpoint {name}")
        return copy.deepcopy(self.endpoint)

    def patch(self, kind: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        assert kind == "finetuneendpoint"
        self.patches.append((name, patch))
        return copy.deepcopy(self.endpoint)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    monkeypatch.setattr(Cluster, "connect", lambda **_: made)
    return made


def run(*arguments: str, answer: str = "") -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["endpoint", *arguments], input=answer)
    if isinstance(done.exception, CliError):
        return done.exception.exit_code, done.stdout, str(done.exception)
    return done.exit_code, done.stdout, done.stderr


def test_an_endpoint_is_shown(cluster: FakeCluster) -> None:
    done = CliRunner().invoke(app, ["status", "endpoint/headlines", "-o", "json"])
    assert json.loads(done.stdout)["spec"]
    done = CliRunner().invoke(app, ["status", "endpoint/none"])
    assert str(done.exception) == "no FineTuneEndpoint none"


def test_an_endpoint_that_nobody_has_looked_at_is_pending() -> None:
    body = minimal_endpoint()
    assert state_text(body) == "Pending: no operator has looked at it yet"
    assert endpointview.describe(body, NOW)


def test_a_rollout_is_described_with_counts_evidence_and_decisions(cluster: FakeCluster) -> None:
    cluster.roll_out()
    body = cluster.endpoint
    body["spec"] |= {
        "rollout": {"steps": [5, 25, 100], "minRequests": 200, "certainty": "0.99"},
        "access": {"keysFrom": {"secretRef": {"name": "keys"}}},
    }
    body["status"] |= {
        "rejected": [{**REFUSED, "version": 1}],
        "decisions": [
            {"time": AT, "version": 4, "action": "Advanced", "weight": 25, "message": "no evidence"}
        ],
    }
    told = "\n".join(endpointview.describe(body, NOW))
    assert "Candidate:  version 4, default.headlines-v4 on fts-0123456789ab, 25 % of the" in told
    assert "5 %, 25 %, 100 %; 200 requests at each step; rolled back where worse is shown" in told
    assert "active      3         2,400      6" in told
    assert "candidate   4         360        5" in told
    assert "All +1.50, Errors +2.25" in told
    assert "AnswersLikeBase" in told
    assert "Advanced" in told
    assert "Bearer YOUR_KEY" in told
    assert '"model": "headlines"' in told


def test_a_promotion_says_what_changes_asks_and_pins_the_candidate(cluster: FakeCluster) -> None:
    cluster.roll_out()
    code, _, err = run("promote", "headlines", answer="n\n")
    assert (code, cluster.patches) == (1, [])
    assert "version 3 answers, and version 4 to 25 % of the requests" in err
    assert "then      spec.version is 4" in err
    code, out, _ = run("promote", "headlines", answer="y\n")
    assert code == 0
    assert "headlines wants version 4" in out
    assert cluster.patches == [("headlines", {"spec": {"version": 4}})]


def test_a_promotion_at_once_skips_the_steps_of_that_version_alone(cluster: FakeCluster) -> None:
    cluster.roll_out()
    cluster.endpoint["spec"]["version"] = 4
    assert run("promote", "headlines", "--yes")[0] == 1  # pinned already
    code, _, err = run("promote", "headlines", "--at-once", "--yes")
    assert code == 0
    assert "answers all requests as soon as it is verified" in err
    annotations = {"finetune.dev/skip-steps": "4"}
    wanted = {"spec": {"version": 4}, "metadata": {"annotations": annotations}}
    assert cluster.patches == [("headlines", wanted)]
    cluster.endpoint["metadata"]["annotations"] = annotations
    assert run("promote", "headlines", "--at-once", "--yes")[0] == 1
    assert run("promote", "headlines", "--at-once", "--newest", "--yes")[0] == 64


def test_without_a_candidate_a_version_has_to_be_named(cluster: FakeCluster) -> None:
    code, _, why = run("promote", "headlines", "--yes")
    assert (code, cluster.patches) == (1, [])
    assert why.startswith("FineTuneEndpoint headlines has no candidate, version 3 answers: name")
    cluster.endpoint["status"]["rejected"] = [REFUSED]
    code, _, err = run("promote", "headlines", "--to", "4", "--yes")
    assert code == 0
    assert "it was rejected (AnswersLikeBase: 48 of 50" in err
    assert cluster.patches == [("headlines", {"spec": {"version": 4}})]


def test_the_newest_version_is_followed_again(cluster: FakeCluster) -> None:
    assert run("promote", "headlines", "--newest", "--yes")[0] == 1  # it does already
    cluster.endpoint["spec"]["version"] = 3
    code, out, _ = run("promote", "headlines", "--newest", "--yes")
    assert code == 0
    assert "follows the newest version" in out
    assert cluster.patches == [("headlines", {"spec": {"version": None}})]
    assert run("promote", "headlines", "--newest", "--to", "3")[0] == 64


@pytest.mark.parametrize(
    ("arguments", "with_candidate", "version"),
    [
        ((), False, 2),
        ((), True, 3),
        (("--to", "1"), False, 1),
        (("--to", "1"), True, 1),
    ],
)
def test_a_rollback_pins_an_earlier_version(
    cluster: FakeCluster, arguments: tuple[str, ...], with_candidate: bool, version: int
) -> None:
    if with_candidate:
        cluster.roll_out()
    code, _, err = run("rollback", "headlines", "--yes", *arguments)
    assert code == 0
    assert cluster.patches == [("headlines", {"spec": {"version": version}})]
    assert ("candidate 4 is taken out of rotation" in err) is with_candidate
    assert "newer versions wait until spec.version is removed" in err


def test_a_rollback_needs_a_version_to_go_back_to(cluster: FakeCluster) -> None:
    del cluster.endpoint["status"]["previous"]
    code, _, why = run("rollback", "headlines", "--yes")
    assert (code, cluster.patches) == (1, [])
    assert "has no earlier version to go back to, version 3 answers" in why
    cluster.endpoint["spec"]["version"] = 3
    code, _, why = run("rollback", "headlines", "--to", "3")
    assert code == 1
    assert "pins version 3 already" in why


def test_an_endpoint_in_a_file_is_judged(tmp_path: Path) -> None:
    is_valid, (line,) = judge_text(tmp_path, to_yaml(minimal_endpoint()))
    assert is_valid, line
    body = minimal_endpoint()
    body["spec"]["serve"] = {"arguments": ["--port=9000"]}
    is_valid, lines = judge_text(tmp_path, to_yaml(body))
    assert not is_valid
    assert 'spec.serve.arguments[0]: Invalid value: "--port=9000": must be a flag' in lines[-1]


def test_an_endpoint_is_read_and_changed_at_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[Any, ...]] = []

    def answer(_: Cluster, method: str, path: str, query: Any = None, **given: Any) -> Any:
        sent.append((method, path, query, given.get("body"), given.get("content_type")))
        return {}

    monkeypatch.setattr(Cluster, "_json", answer)
    cluster = Cluster(host="https://here", namespace="team-a", _client=None)
    cluster.get("finetuneendpoint", "headlines")
    cluster.patch("finetuneendpoint", "headlines", {"spec": {"version": 3}})
    group = "/apis/finetune.dev/v1alpha1"
    path = f"{group}/namespaces/team-a/finetuneendpoints/headlines"
    manager, merge = {"fieldManager": "finetune-cli"}, "application/merge-patch+json"
    assert sent == [
        ("GET", path, None, None, None),
        ("PATCH", path, manager, {"spec": {"version": 3}}, merge),
    ]
