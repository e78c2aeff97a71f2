"""What is asked beyond the held-out rows, the published version as rival, and a person's word."""

from __future__ import annotations

import pytest

from kit.processes.eventually import eventually
from kit.processes.installation import Body, Job, Tenant, apply

pytestmark = pytest.mark.slow

NO_WORSE = {"name": "champion", "metric": "exactMatch", "overPublished": "-0.99"}
OUT_OF_REACH = {"name": "certain", "metric": "loss", "atMost": "0.000001"}


def gates_of(status: Body) -> dict[str, Body]:
    return {gate["name"]: gate for gate in status["evaluation"]["gates"]}


def decide(job: Job, status: Body) -> None:
    """Have the cluster's administrator publish a candidate that missed."""
    whoami = ("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    spec = {
        "job": job.name,
        "subject": "Publication",
        "digest": status["evaluation"]["digest"],
        "decision": "Approved",
        "by": job.tenant.node.kubectl(*whoami),
        "reason": "the loss is low enough for what it is used for",
    }
    apply(
        job.tenant.node,
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneApproval",
            "metadata": {"name": f"{job.name}-anyway", "namespace": job.tenant.namespace},
            "spec": spec,
        },
    )


def test_alarms_are_told_beside_gates_and_the_next_job_is_held_against_the_published_version(
    team_a: Tenant, spec: Body
) -> None:
    change = {"evaluation": {"forgetting": {"severity": "Warn"}, "gates": [NO_WORSE]}}
    first = team_a.submit("champion", spec, change)
    status = first.wait_published()
    assert status["artifact"]["version"] == 1
    gates = gates_of(status)
    assert gates["champion"]["applicable"] is False, "nothing was published before"
    # What it says gives way where the pod's last words are full; the report has it.
    assert gates["forgetting-bits-per-byte"]["severity"] == "Warn"
    first.kubectl("delete", "ftj", first.name, "--wait=true")
    eventually(lambda: not first.list("jobs"), timeout=90, interval=1)
    change = {"evaluation": {"gates": [NO_WORSE]}, "hyperparameters": {"seed": 7}}
    status = team_a.submit("champion", spec, change).wait_published()
    assert status["artifact"]["version"] == 2
    assert status["evaluation"]["publishedVersion"] == 1
    gate = gates_of(status)["champion"]
    assert gate["met"] is True
    assert gate.get("applicable", True) is True


def test_a_candidate_that_missed_a_gate_is_kept_and_published_by_a_persons_word(
    team_a: Tenant, spec: Body
) -> None:
    job = team_a.submit("missed", spec, {"evaluation": {"gates": [OUT_OF_REACH]}})
    status = job.wait_failed()
    assert status["reason"] == "GatesNotMet"
    assert "gate certain missed" in job.condition("Failed")["message"]
    assert "version" not in status["artifact"]
    decide(job, status)
    status = job.wait(lambda s: s["artifact"].get("version"), after_end=True)
    assert job.condition("Published")["reason"] == "Overridden"
    assert job.condition("Failed")["status"] == "True", "it did miss"
    assert "low enough" in status["publication"]["reason"]
