"""A node as a job meets it: pods, names, Services, GPUs that are not there; and its removal."""

from __future__ import annotations

import json
import secrets
import textwrap

import pytest

from devcluster.node.worker import add_worker
from kit.processes.eventually import eventually, patient

pytestmark = pytest.mark.slow

PEER = """
import os, socket, ssl, sys, time, urllib.request
other = 1 - int(os.environ["JOB_COMPLETION_INDEX"])
name = f"ring-{other}.ring.{os.environ['NAMESPACE']}.svc.cluster.local"
deadline = time.monotonic() + 60
while True:
    try:
        print("peer", socket.gethostbyname(name))
        break
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.1)
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=folder + "/ca.crt")
urllib.request.urlopen("https://kubernetes.default.svc/version", context=context).read()
print("api server reached")
print("store", urllib.request.urlopen(os.environ["STORE"] + "/healthz").status)
print("audience token", len(open("/var/run/token/token").read()) > 100)
print("user", os.getuid())
"""


@pytest.fixture
def restricted_namespace(node_cluster):
    name = f"test-{secrets.token_hex(3)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    }
    node_cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    yield name
    node_cluster.kubectl("delete", "namespace", name, "--wait=false")


def two_pod_job(namespace: str, image: str, store: str) -> list[dict]:
    container = {
        "name": "main",
        "image": image,
        "command": ["python3", "-c", textwrap.dedent(PEER)],
        "env": [{"name": "NAMESPACE", "value": namespace}, {"name": "STORE", "value": store}],
        "resources": {"limits": {"nvidia.com/gpu": "2"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/token"}],
    }
    token = {"serviceAccountToken": {"audience": "finetune.dev", "path": "token"}}
    pod = {
        "restartPolicy": "Never",
        "subdomain": "ring",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "token", "projected": {"sources": [token]}}],
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "ring", "namespace": namespace},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"job-name": "ring"},
        },
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "ring", "namespace": namespace},
        "spec": {
            "completions": 2,
            "parallelism": 2,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "template": {"spec": pod},
        },
    }
    return [service, job]


def test_two_restricted_pods_find_each_other_the_api_server_and_the_store(
    node_cluster, base_image, restricted_namespace
):
    for manifest in two_pod_job(
        restricted_namespace, base_image, node_cluster.object_store.endpoint
    ):
        node_cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def logs() -> str:
        return node_cluster.kubectl(
            "-n", restricted_namespace, "logs", "--selector=job-name=ring", "--tail=-1"
        )

    def complete() -> bool:
        job = json.loads(
            node_cluster.kubectl("-n", restricted_namespace, "get", "job", "ring", "-o", "json")
        )
        assert not job["status"].get("failed"), logs()
        return job["status"].get("succeeded") == 2

    eventually(complete, timeout=120, interval=0.5)
    text = logs()
    for line in ("peer 10.", "api server reached", "store 200", "audience token True"):
        assert text.count(line) == 2, text
    assert text.count("user 65532") == 2


def test_a_second_node_runs_pods_of_its_own_until_it_is_lost(
    node_cluster, base_image, restricted_namespace
):
    before = (len(node_cluster.state.processes), list(node_cluster.state.folders))
    _, job = two_pod_job(restricted_namespace, base_image, "http://unused")
    spec = job["spec"]["template"]["spec"]
    del spec["containers"][0]["resources"]
    spec["containers"][0]["command"] = ["sleep", "600"]
    worker = add_worker(node_cluster, "second")
    try:
        worker.pull(base_image)
        pod = {"apiVersion": "v1", "kind": "Pod", "spec": {**spec, "nodeName": worker.name}}
        pod["metadata"] = {"name": "away", "namespace": restricted_namespace}
        node_cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
        wait = ("wait", "pod/away", "--for=condition=Ready", f"--timeout={patient(60)}s")
        node_cluster.kubectl("-n", restricted_namespace, *wait)
        running = set(worker.pids())
        worker.kill_kubelet()
        assert running
        assert set(worker.pids()) == running
        worker.start_kubelet()
        assert set(worker.pids()) == running
        worker.cut_power()
        eventually(lambda: not worker.pids(), timeout=10)
    finally:
        worker.remove()
    assert (len(node_cluster.state.processes), node_cluster.state.folders) == before
    assert node_cluster.is_ready()
    nodes = json.loads(node_cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    assert [node["metadata"]["name"] for node in nodes] == ["devcluster"]
    node_cluster.kubectl(
        *("-n", restricted_namespace, "delete", "pod", "away", "--ignore-not-found"),
        *("--force", "--grace-period=0"),
    )


def test_it_claims_gpus_it_does_not_have(node_cluster):
    node = json.loads(node_cluster.kubectl("get", "node", "devcluster", "-o", "json"))
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == node_cluster.state.values["gpus"]


def test_a_pod_that_asks_for_more_gpus_stays_pending_with_the_schedulers_reason(
    node_cluster, base_image, restricted_namespace
):
    _, job = two_pod_job(restricted_namespace, base_image, "http://unused")
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["resources"]["limits"]["nvidia.com/gpu"] = "999"
    node_cluster.kubectl("apply", "-f", "-", stdin=json.dumps(job))

    def reasons() -> str:
        return node_cluster.kubectl(
            "-n", restricted_namespace, "get", "events", "-o", "jsonpath={.items[*].message}"
        )

    eventually(lambda: "Insufficient nvidia.com/gpu" in reasons(), timeout=30)


def test_tenants_cannot_read_each_others_buckets(node_cluster):
    boto3 = pytest.importorskip("boto3")
    from botocore.exceptions import ClientError

    store = node_cluster.object_store

    def client(identity: str):
        key_id, secret = store.identities[identity]
        return boto3.client(
            "s3",
            endpoint_url=store.endpoint,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            region_name="us-east-1",
        )

    admin = client("admin")
    existing = {bucket["Name"] for bucket in admin.list_buckets()["Buckets"]}
    for bucket in {"team-a", "team-b"} - existing:
        admin.create_bucket(Bucket=bucket)

    def written() -> bool:
        client("team-a").put_object(Bucket="team-a", Key="adapter", Body=b"weights")
        return True

    eventually(written, timeout=30)
    with pytest.raises(ClientError, match="AccessDenied"):
        client("team-b").get_object(Bucket="team-a", Key="adapter")
