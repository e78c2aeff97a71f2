"""What a hostile tenant tries on the real cluster: with kubectl, and with a kubelet that mounts."""

from __future__ import annotations

import json

import pytest

from kit.cluster.devcluster import DevclusterError
from kit.processes.installation import Body, Job, Tenant, apply

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def team_a(installation: None, tenants: dict[str, Tenant]) -> Tenant:
    return tenants["team-a"]


@pytest.mark.parametrize("path", ["//etc/finetune/job", "/etc/finetune/job", "/opt/finetune/lib"])
def test_a_mount_over_the_job_file_or_the_image_is_refused_at_apply_with_field_and_value(
    team_a: Tenant, spec: Body, path: str
) -> None:
    volume = {"name": "mine", "configMap": {"name": "mine"}}
    mount = {"name": "mine", "mountPath": path}
    template = {"podTemplate": {"volumes": [volume], "volumeMounts": [mount]}}
    with pytest.raises(DevclusterError) as refused:
        team_a.submit("over-the-job-file", spec, template)
    assert "podTemplate.volumeMounts" in str(refused.value)
    assert path in str(refused.value)
    assert Job(tenant=team_a, name="over-the-job-file").list("jobs") == []


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
