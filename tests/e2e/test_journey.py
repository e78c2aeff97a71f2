"""One job and one endpoint in pods, from the chart to the last trace: what every change must pass.

It stands alone: one tenant, one installation, no Kueue. The processors that it asks for leave room
on a host with two, also beside the installation of the other tests.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator

import pytest

from kit.cluster.chart import NAMESPACE
from kit.cluster.devcluster import Node
from kit.endpoints.endpoint import SERVING, Endpoint, condition, serves
from kit.endpoints.versions import WEIGHTS, Versions
from kit.processes.eventually import eventually
from kit.processes.installation import (
    POLL_SECONDS,
    SECRET,
    Body,
    Job,
    Tenant,
    apply,
    helm,
    install_operator,
    secret_manifest,
)
from kit.processes.stages import Workbench

# The first test waits for the node and its images too.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RELEASE = "finetune-journey"
NAME = "journey"
BUCKET = "team-a"
BAD_LINE = 17
END_SECONDS = 75.0
"""A job of three pods that each load their libraries takes so long; a fault is told soon after."""
CONFIG: Body = {
    "prepareCpu": "900m",  # two at once
    "frontReplicas": 1,
    **{"frontCpu": "300m", "frontMemory": "256Mi", "agentCpu": "400m", "agentMemory": "512Mi"},
}
SERVE: Body = {
    "engine": "Transformers",
    "replicas": {"min": 1, "max": 1},
    "resources": {"cpu": "800m", "memory": "1536Mi"},
}
KEY = "key-of-a-user"
ASK = """\
import json, sys, urllib.request as web
url, key, body = sys.argv[1:]
asked = web.Request(url, body.encode(), {"Authorization": f"Bearer {key}"})
answer = web.urlopen(asked, timeout=60)
text = json.load(answer)["choices"][0]["message"]["content"]
print(json.dumps([answer.headers["x-finetune-version"], text]))
"""


@pytest.fixture(scope="module")
def tenant(
    node_cluster: Node,
    project_images: dict[str, str],
    materials: Workbench,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Tenant]:
    """A namespace with a bucket, and an operator that looks after it."""
    namespace = f"{NAME}-{secrets.token_hex(2)}"
    folder = tmp_path_factory.mktemp("credentials")
    found = Tenant.create(node_cluster, namespace, BUCKET, folder)
    found.upload(materials.model, "model")
    found.upload(materials.data, "rows.jsonl")
    install_operator(
        node_cluster,
        project_images,
        release=RELEASE,
        namespaces=[namespace],
        allow_cpu=True,
        config=CONFIG,
        kueue=False,
        replicas=1,
        timeout=60,
    )
    yield found
    helm(node_cluster, "uninstall", RELEASE, "--namespace", NAMESPACE)
    node_cluster.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="module")
def job(tenant: Tenant, spec: Body) -> Job:
    """The job that ends well."""
    return tenant.submit(NAME, spec, {"resources": {"cpu": "1500m"}})


@pytest.fixture(scope="module")
def bad_job(tenant: Tenant, spec: Body, job: Job, materials: Workbench) -> Job:
    """A job beside it, with a row that has no answer."""
    rows = materials.data.read_text().splitlines()
    rows[BAD_LINE - 1] = '{"prompt": "no answer"}'
    path = materials.folder / "bad-row.jsonl"
    path.write_text("\n".join(rows))
    source = {"uri": tenant.upload(path, path.name), "credentialsRef": {"name": SECRET}}
    return tenant.submit("bad-row", spec, {"dataset": {"sources": [source]}})


def test_a_job_is_prepared_trained_evaluated_and_published_and_its_owner_verifies_it(
    job: Job, bad_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = job.wait_published(END_SECONDS)
    assert [stage["name"] for stage in status["stages"]] == ["prepare", "train", "evaluate"]
    assert status["attempts"]["counted"] == 0, job.report()
    assert job.condition("DatasetReady")["status"] == "True"
    assert status["dataset"]["rows"] == {"train": 31, "validation": 5, "test": 12}
    assert status["progress"]["step"] == 12
    assert status["evaluation"]["scores"]
    assert status["artifact"]["version"] == 1
    assert job.verify(status, monkeypatch)[WEIGHTS] == status["artifact"]["sha256"]


def test_a_bad_row_is_named_and_not_trained_on(bad_job: Job) -> None:
    failure = bad_job.wait_failed(END_SECONDS)["lastFailure"]
    assert (failure["reason"], failure["exitCode"]) == ("InvalidRows", 65)
    assert f"bad-row.jsonl:{BAD_LINE}: " in failure["message"]
    assert [child["metadata"]["name"] for child in bad_job.list("jobs")] == ["bad-row-prepare"]


def test_an_endpoint_answers_as_its_version_was_evaluated(job: Job) -> None:
    job.wait_published(END_SECONDS)
    tenant = job.tenant
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    apply(tenant.node, secret_manifest(tenant.namespace, "keys", {"user": f"sha256:{digest}"}))
    access = {"keysFrom": {"secretRef": {"name": "keys"}}}
    endpoint = Endpoint.create(tenant, NAME, {"serve": SERVE, "access": access})
    status = endpoint.wait(serves(1), END_SECONDS)
    assert condition(status, "Verified")["status"] == "True"
    (question, expected), *_ = Versions(tenant=tenant, job=NAME).evaluated(1)
    message = {"role": "user", "content": question}
    body = json.dumps({"model": NAME, "messages": [message], "temperature": 0, "max_tokens": 8})
    # In a pod, where the name of the Service is known.
    (front,) = endpoint.pods("front")
    ask = ("exec", front["metadata"]["name"], "--", "python", "-c", ASK)
    said = endpoint.kubectl(*ask, f"{status['url']}/chat/completions", KEY, body)
    assert json.loads(said) == ["1", expected]

    endpoint.delete()
    parts = "deployments,pods,services,serviceaccounts,roles,rolebindings,secrets"
    eventually(
        lambda: not endpoint.kubectl("get", parts, "-l", SERVING, "-o", "name").strip(),
        timeout=30,
        interval=POLL_SECONDS,
    )


def test_a_deleted_job_leaves_nothing_in_the_cluster(job: Job, bad_job: Job) -> None:
    parts = "jobs,pods,configmaps,services,secrets"
    for each in (job, bad_job):
        assert each.list(parts)
        each.delete()
    eventually(
        lambda: job.list(parts) + bad_job.list(parts) == [], timeout=60, interval=POLL_SECONDS
    )
