"""Jobs in the queues of a real Kueue: they wait their turn and say why, are held and moved there,
and lose nothing when somebody more important takes their place."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from e2e.test_cli import Shell
from kit.cluster.devcluster import Node
from kit.processes.eventually import eventually
from kit.processes.installation import RESUMED, Body, Job, Tenant, apply, is_training

pytestmark = pytest.mark.slow

API = "kueue.x-k8s.io/v1beta2"
QUEUE = "team"
GPU = {"resources": {"gpusPerNode": 1}}
LONG = {**GPU, "hyperparameters": {"maxSteps": 200}, "checkpoint": {"everySteps": 10}}


@dataclass(frozen=True, kw_only=True)
class Queues:
    """A ClusterQueue with a LocalQueue in each of some namespaces, and two priorities."""

    node: Node
    name: str

    @property
    def low(self) -> str:
        return f"{self.name}-low"

    @property
    def high(self) -> str:
        return f"{self.name}-high"

    def offer(self, num_gpus: int) -> None:
        """Set the quota: more than enough of everything but GPUs."""
        quotas = {"cpu": "100", "memory": "1000Gi", "nvidia.com/gpu": str(num_gpus)}
        resources = [{"name": key, "nominalQuota": value} for key, value in quotas.items()]
        flavor = {"name": self.name, "resources": resources}
        spec = {
            "namespaceSelector": {},
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": [{"coveredResources": list(quotas), "flavors": [flavor]}],
        }
        apply(self.node, manifest("ClusterQueue", self.name, spec=spec))

    def open(self, tenant: Tenant) -> None:
        """Give a tenant a LocalQueue."""
        spec = {"clusterQueue": self.name}
        apply(self.node, manifest("LocalQueue", QUEUE, namespace=tenant.namespace, spec=spec))


def manifest(kind: str, name: str, *, namespace: str = "", **more: Body) -> Body:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": API, "kind": kind, "metadata": metadata, **more}


@pytest.fixture
def queues(team_a: Tenant, team_b: Tenant) -> Iterator[Queues]:
    """Queues for two teams, without a GPU yet."""
    found = Queues(node=team_a.node, name=f"e2e-{secrets.token_hex(3)}")
    priorities = {found.low: 1, found.high: 1000}
    apply(
        found.node,
        manifest("ResourceFlavor", found.name),
        *(
            {**manifest("WorkloadPriorityClass", name), "value": value}
            for name, value in priorities.items()
        ),
    )
    found.offer(0)
    for tenant in (team_a, team_b):
        found.open(tenant)
    yield found
    for tenant in (team_a, team_b):
        found.node.kubectl("-n", tenant.namespace, "delete", "localqueue", QUEUE, "--wait=false")
    for kind in ("clusterqueue", "resourceflavor"):
        found.node.kubectl("delete", kind, found.name, "--wait=false")
    found.node.kubectl("delete", "workloadpriorityclass", *priorities, "--wait=false")


def edit(job: Job, **spec: object) -> None:
    """Change fields of a job as its user."""
    job.kubectl("patch", "ftj", job.name, "--type=merge", "-p", json.dumps({"spec": spec}))


def activate(job: Job, workload: str, active: bool) -> None:
    """Let an administrator hold a Workload, or let it go."""
    patch = json.dumps({"spec": {"active": active}})
    job.kubectl("patch", "workload", workload, "--type=merge", "-p", patch)


def wait_quota(job: Job, status: str, reason: str, text: str) -> Body:
    """Wait until the job says so of its quota."""

    def says() -> Body:
        told = job.condition("QuotaReserved")
        is_so = (told.get("status"), told.get("reason")) == (status, reason)
        return told if is_so and text in told["message"] else {}

    return eventually(says, timeout=90, interval=0.5)


def test_a_queued_job_is_moved_paused_held_and_runs_once_it_is_admitted(
    team_b: Tenant, spec: Body, queues: Queues
) -> None:
    job = team_b.submit("queued", spec, {**GPU, "queueName": "nowhere"})
    job.wait(lambda s: s["phase"] == "Queued" and s.get("dataset"))  # prepared without quota
    wait_quota(job, "False", "Inadmissible", "LocalQueue nowhere doesn't exist")
    edit(job, queueName=QUEUE, priorityClassName=queues.low)
    wait_quota(job, "False", "Pending", "nvidia.com/gpu")
    status = job.wait(lambda s: s["queue"].get("position"))
    workload = status["queue"]["workload"]
    assert status["queue"] == {
        "localQueue": QUEUE,
        "workload": workload,
        "position": 1,
        "positionInLocalQueue": 1,
    }
    assert not job.running_pods()
    # Its user pauses it and lets it go on.
    for suspend in (True, False):
        edit(job, suspend=suspend)
        job.wait(lambda s, suspend=suspend: (s["phase"] == "Suspended") is suspend)
    # An administrator holds it: the user's word does not change that.
    activate(job, workload, False)
    job.wait(lambda s: s["phase"] == "Suspended" and s["reason"] == "Deactivated")
    held = job.condition("Suspended")["message"]
    assert "kubectl-patch has deactivated" in held
    assert any(event["reason"] == "Deactivated" for event in job.events())
    for suspend, reason in ((True, "SuspendedByUser"), (False, "Deactivated")):
        edit(job, suspend=suspend)
        job.wait(lambda s, reason=reason: s["reason"] == reason)
    found = json.loads(job.kubectl("get", "workload", workload, "-o", "json"))
    assert found["spec"]["active"] is False
    activate(job, workload, True)
    job.wait(lambda s: s["phase"] == "Queued")
    queues.offer(1)
    status = job.wait_published()
    assert job.condition("QuotaReserved")["status"] == "True"
    assert (status["attempts"]["counted"], status["attempts"]["preemptions"]) == (0, 0)


def test_a_preempted_job_waits_its_turn_and_ends_in_the_same_adapter(
    team_a: Tenant, team_b: Tenant, spec: Body, queues: Queues
) -> None:
    # Both are prepared while there is no quota: what follows does not hang on how long that takes.
    queued = {"queueName": QUEUE, "backoffLimit": 0}
    low = team_a.submit("low", spec, {**LONG, **queued, "priorityClassName": queues.low})
    high = team_b.submit("high", spec, {**GPU, **queued})  # of less importance, for now
    for job in (low, high):
        job.wait(lambda s: s["phase"] == "Queued" and s.get("dataset"))
    queues.offer(1)
    low.wait(lambda s: s["phase"] == "Training")
    assert low.condition("QuotaReserved")["reason"] == "QuotaReserved"
    wait_quota(high, "False", "Pending", "insufficient unused quota for nvidia.com/gpu")
    assert high.status()["phase"] == "Queued"
    low.wait(is_training)
    edit(high, priorityClassName=queues.high)
    status = low.wait(lambda s: s["attempts"]["preemptions"])
    assert (status["phase"], status["reason"]) == ("Queued", "Preempted")
    assert low.condition("Training")["reason"] == "Preempted"
    assert any(event["reason"] == "Preempted" for event in low.events())
    for why in (
        "prioritization in the ClusterQueue",
        "insufficient unused quota for nvidia.com/gpu",
    ):
        wait_quota(low, "False", "Preempted", why)
    high.wait(lambda s: s["phase"] == "Training")
    # Kueue gives the quota away once the Job is suspended; its pod may save for some seconds yet.
    eventually(lambda: not low.running_pods(), timeout=30, interval=0.5)
    # Enough for both: `high` would otherwise go before `low` again when it is evaluated.
    queues.offer(2)
    undisturbed = team_a.submit("undisturbed", spec, LONG)  # in no queue
    eventually(lambda: RESUMED.search(low.logs("train")), timeout=180, interval=1)
    status = low.wait_published()
    high.wait_published()
    attempts = status["attempts"]
    assert (attempts["counted"], attempts["preemptions"]) == (0, 1), low.report()
    assert status["stages"][1]["evictions"] == 1
    alone = undisturbed.wait_published()
    assert alone["attempts"]["preemptions"] == 0
    assert status["progress"]["step"] == alone["progress"]["step"]
    assert status["artifact"]["sha256"] == alone["artifact"]["sha256"]


def test_the_command_line_shows_who_runs_and_who_waits(
    team_b: Tenant, spec: Body, queues: Queues, tmp_path_factory: pytest.TempPathFactory
) -> None:
    queued = {**GPU, "queueName": QUEUE}
    first = team_b.submit("first", spec, {**queued, "priorityClassName": queues.high})
    second = team_b.submit("second", spec, {**queued, "priorityClassName": queues.low})
    for job in (first, second):
        wait_quota(job, "False", "Pending", "nvidia.com/gpu")
    shell = Shell.create(tmp_path_factory.mktemp("shell"), team_b, team_b.node)

    def shown() -> list[list[str]]:
        said = shell.run("finetune", "queue", QUEUE)
        # Three blanks part the columns; there is one within `high (1000)`.
        return [re.split(r"\s{3,}", line)[1:5] for line in said.splitlines()[1:]]

    eventually(
        lambda: (
            shown()
            == [
                ["1", "first", "Queued", f"{queues.high} (1000)"],
                ["2", "second", "Queued", f"{queues.low} (1)"],
            ]
        ),
        timeout=60,
        interval=1,
    )
    for job in (first, second):
        job.delete()
