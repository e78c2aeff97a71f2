"""What a hostile tenant tries on the real cluster: with kubectl, and with a kubelet that mounts."""

from __future__ import annotations

import json

import pytest

from kit.processes.installation import Body, Tenant, apply

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def team_a(installation: None, tenants: dict[str, Tenant]) -> Tenant:
    return tenants["team-a"]


def test_a_stage_reads_no_other_job_file_than_the_one_it_was_created_with(
    team_a: Tenant, spec: Body
) -> None:
    job = team_a.submit("replaced", spec, {"dataset": {"approval": "Required"}})
    status = job.wait(lambda s: s.get("phase") == "AwaitingApproval")
    name = "replaced-job"
    stored = json.loads(job.kubectl("get", "configmap", name, "-o", "json"))
    text = stored["data"]["job.json"].replace('"seed": ', '"seed": 1')
    assert text != stored["data"]["job.json"]
    metadata = {
        "name": name,
        "namespace": team_a.namespace,
        "ownerReferences": stored["metadata"]["ownerReferences"],
    }
    job.kubectl("delete", "configmap", name)
    forged = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    apply(team_a.node, {**forged, "data": {"job.json": text}})
    user = json.loads(job.kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]["username"]
    decision = {"job": "replaced", "subject": "DataSet", "decision": "Approved", "by": user}
    approval = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneApproval",
        "metadata": {"name": "replaced", "namespace": team_a.namespace},
        "spec": {**decision, "digest": status["dataset"]["digest"]},
    }
    apply(team_a.node, approval)
    failure = job.wait_failed()["lastFailure"]
    assert (failure["reason"], failure["stage"], failure["exitCode"]) == (
        "JobFileChanged",
        "train",
        64,
    )
    job.delete()
