"""A lost cluster is made anew from object storage and an export, by the commands of the guide."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from finetune_api.names import TRIGGER_ANNOTATION
from finetune_trainer.storage import open_store
from kit.cluster.chart import NAMESPACE
from kit.cluster.devcluster import Node, program
from kit.endpoints.endpoint import Endpoint, serves
from kit.processes.eventually import eventually, patient
from kit.processes.installation import (
    JOB_TIMEOUT_SECONDS,
    POLL_SECONDS,
    Bodies,
    Body,
    Job,
    Tenant,
    apply,
    helm,
    install_operator,
)
from kit.processes.stages import Workbench

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs/how-to/backup-and-restore.md"
COMMANDS = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
RELEASE = "finetune-restored"
NAME, SCHEDULE = "colours", "again"
CPU = "600m"
"""Of a job: the schedule's runs at the same time."""
PROMPT = "What colour is thing 1 very green?"
SERVE: Body = {
    "engine": "Transformers",
    "replicas": {"min": 1, "max": 1},
    "resources": {"cpu": "500m", "memory": "1536Mi"},
}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What users of a cluster see.

    Attributes:
        job: Status of the job.
        jobs: The Jobs (batch/v1) of the namespace.
        endpoint: Status of the endpoint.
        schedule: Status of the schedule.
        answer: What the endpoint answers, and the version that does.
        anchor: What object storage has of the schedule's sealed rows.
    """

    job: Body
    jobs: Bodies
    endpoint: Body
    schedule: Body
    answer: tuple[str, str]
    anchor: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster as far as one tenant has it: a namespace and an operator that looks after it."""

    tenant: Tenant
    images: dict[str, str]

    def install(self) -> None:
        """Install the operator."""
        install_operator(
            self.tenant.node,
            self.images,
            release=RELEASE,
            namespaces=[self.tenant.namespace],
            allow_cpu=True,
            config={
                **{"frontCpu": "150m", "frontMemory": "256Mi"},
                **{"agentCpu": "200m", "agentMemory": "512Mi"},
            },
        )

    def lose(self) -> None:
        """Lose the operator and all objects of the namespace."""
        node, namespace = self.tenant.node, self.tenant.namespace
        helm(node, "uninstall", RELEASE, "--namespace", NAMESPACE)
        # Another cluster has no lease that must run out.
        node.kubectl("-n", NAMESPACE, "delete", "lease", f"{RELEASE}-finetune-operator")
        node.kubectl("delete", "namespace", namespace, "--wait=false")

        def is_gone() -> bool:
            node.kubectl("-n", namespace, "delete", "pods", "--all", "--force")
            left = node.kubectl("get", "namespace", namespace, "--ignore-not-found", "-o", "name")
            return not left.strip()

        eventually(is_gone, timeout=60, interval=1)

    def look(self) -> Snapshot:
        """Look at all there is, once it has settled."""
        job = Job(tenant=self.tenant, name=NAME)
        endpoint = Endpoint(tenant=self.tenant, name=NAME)
        status = job.wait_published()
        schedule: Body = eventually(self._schedule, JOB_TIMEOUT_SECONDS, interval=POLL_SECONDS)
        serving = endpoint.wait(serves(1))
        store = open_store(f"s3://{self.tenant.bucket}/out", self.tenant.access)
        (anchor,) = store.list(f"schedules/{self.tenant.namespace}/")
        return Snapshot(
            job=status,
            jobs=json.loads(job.kubectl("get", "jobs.batch", "-o", "json"))["items"],
            endpoint=serving,
            schedule=schedule,
            answer=ask(endpoint),
            anchor=(anchor.key, store.read_bytes(anchor.key).decode()),
        )

    def _schedule(self) -> Body | None:
        """Return the status of the schedule after its cycle."""
        kubectl = self.tenant.node.kubectl
        found = kubectl("-n", self.tenant.namespace, "get", "ftsch", SCHEDULE, "-o", "json")
        status: Body = json.loads(found).get("status") or {}
        return status if status.get("history") and not status.get("active") else None


def ask(endpoint: Endpoint) -> tuple[str, str]:
    """Return an answer, and the version that gives it."""
    service = json.loads(endpoint.kubectl("get", "service", "finetune-front", "-o", "json"))
    url = f"http://{service['spec']['clusterIP']}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=5) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=NAME,
            messages=[{"role": "user", "content": PROMPT}],
            temperature=0,
            max_tokens=8,
        )
    return raw.parse().choices[0].message.content or "", raw.headers["x-finetune-version"]


def commands(node: Node, namespace: str) -> list[str]:
    """Return the commands of the guide in their order, for one namespace of several."""
    found = [text for _, text in COMMANDS.findall(PAGE.read_text())]
    assert len(found) == 3, "the guide has an export, the objects and the status"
    assert " -A " in found[0]
    return [found[0].replace(" -A ", f" -n {namespace} "), *found[1:]]


def run(command: str, node: Node, folder: Path) -> None:
    """Run a command of the guide as its reader would."""
    paths = os.pathsep.join([str(program("kubectl").parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": paths, "KUBECONFIG": str(node.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=patient(120),
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def objects(tenant: Tenant, spec: Body) -> Bodies:
    """Return a job, an endpoint of its versions, and a schedule with the same template."""
    change = {"checkpoint": {"everySteps": 1000}, "resources": {"cpu": CPU}}
    job = tenant.document(NAME, spec, change)
    template = {"spec": job["spec"]}
    triggers = {"cron": "0 0 1 1 *"}
    endpoint = {"jobRef": {"name": NAME}, "serve": SERVE}
    schedule = {"triggers": triggers, "promote": "Auto", "jobTemplate": template}
    found = [job]
    for kind, name, body in (
        ("FineTuneEndpoint", NAME, endpoint),
        ("FineTuneSchedule", SCHEDULE, schedule),
    ):
        metadata = {"name": name, "namespace": tenant.namespace}
        found.append(
            {"apiVersion": job["apiVersion"], "kind": kind, "metadata": metadata, "spec": body}
        )
    found[-1]["metadata"]["annotations"] = {TRIGGER_ANNOTATION: "now"}
    return found


@pytest.fixture(scope="module")
def cluster(
    kueue: Node, project_images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    if shutil.which("jq") is None:
        pytest.skip("the commands of the guide need jq")
    folder = tmp_path_factory.mktemp("before")
    namespace = f"e2e-restore-{secrets.token_hex(2)}"
    tenant = Tenant.create(kueue, namespace, "team-a", folder)
    yield Cluster(tenant=tenant, images=project_images)
    helm(kueue, "uninstall", RELEASE, "--namespace", NAMESPACE)
    kueue.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="module")
def before(cluster: Cluster, spec: Body, materials: Workbench) -> Snapshot:
    """A namespace in use: a version that answers, and a cycle of a schedule."""
    tenant = cluster.tenant
    tenant.upload(materials.model, "model")
    tenant.upload(materials.data, "rows.jsonl")
    cluster.install()
    apply(tenant.node, *objects(tenant, spec))
    return cluster.look()


@pytest.fixture(scope="module")
def after(cluster: Cluster, before: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The same after the cluster was lost."""
    tenant, folder = cluster.tenant, tmp_path_factory.mktemp("after")
    export, *restore = commands(tenant.node, tenant.namespace)
    run(export, tenant.node, folder)
    cluster.lose()
    again = Tenant.create(tenant.node, tenant.namespace, tenant.bucket, folder)
    assert again.namespace == tenant.namespace
    for command in restore:
        run(command, tenant.node, folder)
    cluster.install()
    return cluster.look()


def test_the_same_version_answers(before: Snapshot, after: Snapshot) -> None:
    assert after.answer == before.answer
    assert after.endpoint["active"]["version"] == before.endpoint["active"]["version"] == 1
    assert after.endpoint["decisions"] == before.endpoint["decisions"]


def test_a_complete_job_is_taken_over_and_trains_nothing(before: Snapshot, after: Snapshot) -> None:
    stages = {job["metadata"]["name"]: job["metadata"]["uid"] for job in after.jobs}
    assert set(stages) == {f"{NAME}-prepare", f"{NAME}-publish"}
    assert not set(stages.values()) & {job["metadata"]["uid"] for job in before.jobs}
    (training,) = [each for each in after.job["conditions"] if each["type"] == "Training"]
    assert (training["status"], training["reason"]) == ("False", "TakenOver")
    for field in ("version", "sha256", "manifestUri"):
        assert after.job["artifact"][field] == before.job["artifact"][field]


def test_a_schedule_keeps_its_sealed_rows_and_begins_no_cycle(
    before: Snapshot, after: Snapshot
) -> None:
    assert before.schedule["anchor"]["digest"]
    assert after.schedule["anchor"] == before.schedule["anchor"]
    assert json.loads(after.anchor[1])["digest"] == before.schedule["anchor"]["digest"]
    assert after.anchor == before.anchor
    assert after.schedule["history"] == before.schedule["history"]
