"""The faults, done for real to operators on one API server; each names the alerts it has to raise.

Pods are played, as there is no kubelet, and write what a kubelet would. All else is real: the API
server, the Job controller, Kueue, the webhook that is gone, the operator and its endpoints.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import aiohttp
from benchmarks.alert_faults.certificate import write_certificate
from benchmarks.alert_faults.endpoints import troubled_endpoints
from benchmarks.alert_faults.operator import DEFECT
from benchmarks.alert_faults.replica import Replica
from benchmarks.alert_faults.schedules import troubled_schedules
from benchmarks.alert_faults.world import Scenario, Seen, World

from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import ExitCode, FailureClass, Stage
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.simulation import ended_status, timestamp

Body = dict[str, Any]

QUEUED_SECONDS = 1800
"""Chart setting of this run: its default is a day."""
CERTIFICATE_LEFT = timedelta(days=7, minutes=10)
"""At the start: ten minutes later it is a week."""
AT_WORK, NO_PODS, CROWDED = "alerts-jobs", "alerts-no-pods", "alerts-crowd"
HUNG, BLOCKED, QUEUED = "alerts-hung", "alerts-blocked", "alerts-queued"
DENIED, BLIND = "alerts-denied", "alerts-blind"
NUM_FAILING, NUM_STORAGE = 6, 4
NUM_CROWD = 600


# ---- jobs that wait, hang and fail ---------------------------------------------------------------


TROUBLES: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "FineTuneJobNotStarting",
        "a pod that no node takes",
        {"namespace": NO_PODS, "finetunejob": "unplaced", "reason": "Unschedulable"},
    ),
    (
        "FineTuneJobHung",
        "a training that reported ten times, and then no more, while its pod runs",
        {"namespace": HUNG, "finetunejob": "hung"},
    ),
    (
        "FineTuneJobQueuedTooLong",
        f"a ClusterQueue of a real Kueue without quota (queuedSeconds: {QUEUED_SECONDS})",
        {"namespace": QUEUED, "finetunejob": "queued", "reason": "Pending"},
    ),
    ("FineTuneProgressBlocked", "a training whose reports never arrive", {"namespace": BLOCKED}),
    (
        "FineTuneProgressRefused",
        "a pod whose token has another audience reports again and again",
        {},
    ),
    (
        "FineTuneJobsFailing",
        f"{NUM_FAILING} jobs end with exit 65 in `prepare`, {NUM_STORAGE} others succeed",
        {"class": "DataError"},
    ),
    (
        "FineTuneStorageErrors",
        f"`prepare` of {NUM_STORAGE} jobs ends with exit 73, then succeeds",
        {},
    ),
    (
        "FineTuneProgressCertificateExpires",
        "a certificate that nobody renews, with a week and ten minutes left",
        {},
    ),
)
"""Alert, fault and labels of what happens to the jobs."""


async def troubled_jobs(world: World) -> list[Seen]:
    """Jobs of five namespaces in trouble, and a certificate that nobody renews."""
    namespaces = (AT_WORK, NO_PODS, HUNG, BLOCKED, QUEUED)
    world.make_namespaces(*namespaces)
    _offer_nothing(world)
    until = world.clock.now() + CERTIFICATE_LEFT
    paths = write_certificate(world.folder, until=until)
    settings = {
        "namespaces": list(namespaces),
        "kueue": "on",
        "progressUrl": "https://finetune-operator-progress:8090",
        "progressTlsCertificate": str(paths[0]),
        "progressTlsKey": str(paths[1]),
    }
    kubelet = Kubelet(world.client, namespaces=namespaces, script=_fate_of)
    async with world.replica("jobs", **settings) as replica, kubelet.running():
        await replica.reach(5)
        await _trouble(world, replica)
    return [
        Seen(alert=alert, fault=fault, labels=labels, replica=replica)
        for alert, fault, labels in TROUBLES
    ]


async def _trouble(world: World, replica: Replica) -> None:
    """Do all faults at once and let the longest take its time."""
    replica.note(
        "FineTuneJobNotStarting",
        "FineTuneJobQueuedTooLong",
        "FineTuneProgressCertificateExpires",
    )
    await world.create("unplaced", NO_PODS)
    await world.create("queued", QUEUED, queueName="team")
    replica.note("FineTuneStorageErrors", "FineTuneJobsFailing")
    for number in range(NUM_STORAGE):
        await world.create(f"storage-{number}", AT_WORK)
    for number in range(NUM_FAILING):
        await world.create(f"failing-{number}", AT_WORK)
    await world.create("hung", HUNG)
    await world.create("blocked", BLOCKED)
    await world.reaches("blocked", BLOCKED, phase="Training")
    replica.note("FineTuneProgressBlocked")
    await world.reaches("hung", HUNG, phase="Training")
    good = await world.token(HUNG, "hung", audience="finetune.dev")
    bad = await world.token(BLOCKED, "blocked", audience="somebody-else")
    for _ in range(10):
        await _report(replica, HUNG, "hung", good)
    replica.note("FineTuneJobHung", "FineTuneProgressRefused")
    world.is_waiting.set()
    pushing = asyncio.create_task(_report_for_ever(replica, BLOCKED, "blocked", bad))
    try:
        await replica.reach(replica.minute + 80)
    finally:
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)


def _fate_of(job: str, stage: Stage, attempt: int) -> Fate:
    """Play the pods of each job."""
    if job == "unplaced":
        return Fate(starts=False, status=_unplaced())
    if job.startswith("failing"):
        return Fate(status=_ended(65, ExitCode.DATA_ERROR, FailureClass.DATA_ERROR, "InvalidRows"))
    if job.startswith("storage") and stage is Stage.PREPARE and attempt == 0:
        failed = (73, ExitCode.STORAGE, FailureClass.STORAGE_ERROR, "Unreachable")
        return Fate(status=_ended(*failed))
    if job in ("hung", "blocked") and stage is Stage.TRAIN:
        return Fate()
    return success(stage)


def _unplaced() -> Body:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        "lastTransitionTime": timestamp(),
    }
    return {"phase": "Pending", "conditions": [condition]}


def _ended(number: int, code: ExitCode, failure: FailureClass, reason: str) -> Body:
    words = TerminationMessage(
        stage=Stage.PREPARE,
        exit_code=code,
        failure_class=failure,
        reason=reason,
        message="played for an alert",
    )
    return ended_status(number, words.to_text())


def _offer_nothing(world: World) -> None:
    """Give a namespace a queue of Kueue without quota."""
    api = "kueue.x-k8s.io/v1beta2"
    quotas = [{"name": key, "nominalQuota": "0"} for key in ("cpu", "memory")]
    flavor = {"name": QUEUED, "resources": quotas}
    group = {"coveredResources": ["cpu", "memory"], "flavors": [flavor]}
    spec = {"namespaceSelector": {}, "resourceGroups": [group]}
    world.apply(
        {"apiVersion": api, "kind": "ResourceFlavor", "metadata": {"name": QUEUED}},
        {"apiVersion": api, "kind": "ClusterQueue", "metadata": {"name": QUEUED}, "spec": spec},
        {
            "apiVersion": api,
            "kind": "LocalQueue",
            "metadata": {"name": "team", "namespace": QUEUED},
            "spec": {"clusterQueue": QUEUED},
        },
    )


async def _report(replica: Replica, namespace: str, job: str, token: str) -> int:
    url = f"https://127.0.0.1:{replica.ports['progress']}/progress/{namespace}/{job}/train"
    body = {"trainerStatus": {"progressPercentage": 42}, "finetune": {"step": 72}}
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=body, headers=headers, ssl=False) as answer,
    ):
        return answer.status


async def _report_for_ever(replica: Replica, namespace: str, job: str, token: str) -> None:
    while True:
        await _report(replica, namespace, job, token)
        await asyncio.sleep(0.3)


# ---- an API server that refuses ------------------------------------------------------------------


async def refused_writes(world: World) -> list[Seen]:
    """A policy engine that is gone, with jobs coming in; and one job that meets a defect."""
    world.make_namespaces(DENIED)
    async with world.replica(
        "refused", namespaces=[DENIED], environment={DEFECT: "defect"}
    ) as replica:
        await world.create("fine", DENIED, suspend=True)
        await replica.reach(5)
        replica.note("FineTuneOperatorReconcilePanics")
        await world.create("defect", DENIED, suspend=True)
        replica.note(
            "FineTuneOperatorReconcileErrors", "FineTuneOperatorApiErrors", "FineTuneStatusRefused"
        )
        world.apply(_dead_webhook())
        number = 0
        end = replica.minute + 35
        while replica.minute < end:
            await world.create(f"refused-{number}", DENIED, suspend=True)
            number += 1
            await asyncio.sleep(1.0)
    gone = "the webhook of a policy engine that is gone refuses every status write"
    return [
        Seen(alert=alert, fault=fault, labels=labels, replica=replica)
        for alert, fault, labels in (
            ("FineTuneOperatorReconcileErrors", gone, {}),
            ("FineTuneOperatorApiErrors", gone, {}),
            ("FineTuneStatusRefused", gone, {"kind": "FineTuneJob", "section": "other"}),
            ("FineTuneOperatorReconcilePanics", "a defect planted into the plan of one job", {}),
        )
    ]


def _dead_webhook() -> Body:
    rule = {
        "apiGroups": ["finetune.dev"],
        "apiVersions": ["*"],
        "resources": ["finetunejobs/status"],
        "operations": ["UPDATE"],
    }
    webhook = {
        "name": "policy.example.com",
        "clientConfig": {"url": "https://127.0.0.1:9/validate"},
        "rules": [rule],
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "timeoutSeconds": 2,
        "admissionReviewVersions": ["v1"],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": DENIED}},
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "alert-faults"},
        "webhooks": [webhook],
    }


# ---- an operator that is slow, and then gone -----------------------------------------------------


async def slow_then_gone(world: World) -> list[Seen]:
    """An operator with far too small a budget finds hundreds of jobs; later it is killed."""
    world.make_namespaces(CROWDED)
    for first in range(0, NUM_CROWD, 50):
        names = [f"crowd-{number}" for number in range(first, first + 50)]
        await asyncio.gather(*(world.create(name, CROWDED, suspend=True) for name in names))
    # One request in each of our seconds.
    settings = {"requestsPerSecond": 1 / world.clock.speed, "requestBurst": 12}
    async with world.replica("slow", namespaces=[CROWDED], **settings) as replica:
        replica.note("FineTuneOperatorQueueGrows")
        await replica.reach(20)
        replica.note("FineTuneOperatorHasNoLeader")
        replica.kill()
        await replica.reach(replica.minute + 12)
    return [
        Seen(
            alert="FineTuneOperatorQueueGrows",
            fault=f"{NUM_CROWD} jobs found at the start, and requestsPerSecond far too low",
            labels={},
            replica=replica,
        ),
        Seen(
            alert="FineTuneOperatorHasNoLeader",
            fault="the only replica killed",
            labels={},
            replica=replica,
        ),
    ]


# ---- an operator that leads and may not look -----------------------------------------------------


async def blind_leader(world: World) -> list[Seen]:
    """An operator whose role lacks the pods."""
    world.make_namespaces(BLIND)
    world.apply(*_rights_without_pods())
    async with world.replica(
        "blind",
        namespaces=[BLIND],
        kubeconfig=world.cluster.kubeconfig_for(BLIND),
        readiness="waiting for the first complete list of pods",
    ) as replica:
        replica.note("FineTuneOperatorNotReady")
        await replica.reach(replica.minute + 15)
    return [
        Seen(
            alert="FineTuneOperatorNotReady",
            fault="a role that lacks list and watch on pods",
            labels={"name": "pods"},
            replica=replica,
        )
    ]


def _rights_without_pods() -> list[Body]:
    """Return all rights but those on pods, for a user of the scenario's name."""
    groups = ["finetune.dev", "batch", "coordination.k8s.io", "events.k8s.io"]
    rules = [
        {"apiGroups": groups, "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["configmaps", "services", "events"], "verbs": ["*"]},
    ]
    metadata = {"name": BLIND}
    group = "rbac.authorization.k8s.io"
    binding = {
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": BLIND},
        "subjects": [{"apiGroup": group, "kind": "User", "name": BLIND}],
    }
    return [
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            **binding,
        },
    ]


FIRST: Scenario = troubled_jobs
"""Its jobs need an hour of the operator's clock and no work."""
MEANWHILE: tuple[Scenario, ...] = (
    refused_writes,
    blind_leader,
    troubled_endpoints,
    troubled_schedules,
    slow_then_gone,
)
"""One after the other."""
