"""The rights in the chart are enough for a whole life, and none of them is unused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane.test_faults import free_port
from control_plane.test_lifecycle import pod_is_stuck_in_deletion
from control_plane.test_progress import push, token_of
from control_plane.test_sweeps import script as sweep_script
from control_plane.test_sweeps import sweep
from finetune_api.names import TRIGGER_ANNOTATION, Owner
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.endpoints import FINETUNEENDPOINTS
from finetune_operator.controllers.memory.schedules import FINETUNESCHEDULES
from finetune_operator.controllers.memory.sweeps import FINETUNESWEEPS
from finetune_operator.finetunejob.render.config import render_config_map
from finetune_operator.finetunejob.render.service import render_service
from finetune_operator.kube.api.errors import NotFound
from finetune_operator.kube.api.resource import (
    AUTOSCALERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    PODS,
    SERVICES,
    Resource,
)
from kit.cluster.chart import IMAGES, HelmNotFoundError, install_crd, render_chart
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.rights import rules_of, used
from kit.cluster.serving_pods import Behaviour, ServingPods
from kit.cluster.simulation import ended_status, finetunejob, waiting_status
from kit.processes.audit_log import AuditLog
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    OperatorProcess,
    connection_of,
    event_reasons,
    get_job,
    holds,
    open_client,
)

USER = "system:serviceaccount:finetune-system:finetune-operator"
BINDINGS = Resource(group="", version="v1", plural="bindings", kind="Binding")


def rendered_rbac() -> list[dict]:
    """Render the chart's roles with Helm."""
    try:
        documents = render_chart([IMAGES, "--set", "kueue.enabled=false"])
    except HelmNotFoundError as error:
        pytest.skip(str(error))
    return [
        document
        for document in documents
        if document["apiVersion"].startswith("rbac.authorization.k8s.io")
    ]


async def test_the_chart_grants_exactly_what_the_operator_uses(private_control_plane, tmp_path):
    cluster = private_control_plane
    documents = rendered_rbac()
    rules = rules_of(documents)
    assert not [rule for rule in rules if "*" in rule]
    assert not [rule for rule in rules if rule[2].startswith("secrets") and rule[0] != "create"]
    install_crd(cluster)
    for name in ("finetune-system", "tenant"):
        cluster.kubectl("create", "namespace", name)
    manifest = {"apiVersion": "v1", "kind": "List", "items": documents}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    audit = AuditLog(Path(cluster.audit_log))
    kubeconfig = cluster.kubeconfig_for(USER)
    port = free_port()
    operator = OperatorProcess(
        cluster,
        tmp_path,
        kubeconfig=str(kubeconfig),
        leaderElectionNamespace="finetune-system",
        progressUrl=f"http://127.0.0.1:{port}",
        progressPort=port,
        lostPodSeconds=1,
        servingReportPeers=[{"podSelector": {}}],
    )
    connection = connection_of(cluster)
    try:
        async with open_client(connection) as client:
            kubelet = Kubelet(client, namespaces=("tenant",), script=script)
            async with kubelet.running():
                await live_through_everything(client, connection, port)
    finally:
        operator.stop()
    found, refused = used(audit.entries(), {USER})
    assert refused == []
    assert found - rules == set()
    assert rules - found == NOT_IN_THE_LOG


NOT_IN_THE_LOG = {
    # Asked for only after a 404; and nobody can give serving pods a right that he has not.
    ("get", "finetune.dev", "finetuneendpoints"),
    # A server-side apply that creates needs both rights, and is logged as a patch.
    ("create", "autoscaling", "horizontalpodautoscalers"),
    ("create", "networking.k8s.io", "networkpolicies"),
}
RELEASED: set[str] = set()
"""Jobs whose training may end."""


def script(job, stage, attempt):
    if job == "doomed":
        return Fate()
    if job == "lost" and attempt == 0:
        return Fate()
    if job == "stuck":
        return Fate(starts=False, status=waiting_status("ContainerCreating", ""))
    if job == "paused" and stage is Stage.TRAIN and job not in RELEASED:
        return Fate()
    if job == "broken":
        return Fate(status=ended_status(64, "bad"))
    if job.startswith("rates-"):
        return sweep_script(job, stage, attempt)
    return success(stage)


async def live_through_everything(client, connection, port) -> None:
    """Every path that asks the API server for something else."""
    wide = {"resources": {"nodes": 2, "gpusPerNode": 0}}
    for name, spec in {
        "again": {**wide, "suspend": True},
        "short": {"ttlSecondsAfterFinished": 1},
        "paused": {},
        "broken": {},
        "doomed": {"podTemplate": {"terminationGracePeriodSeconds": 1}},
        "stuck": {},
        "lost": {},
    }.items():
        await client.create(FINETUNEJOBS, finetunejob(name, "tenant", **spec))
    trials = {"parallelism": 4, "ttlSecondsAfterFinished": 1}
    await client.create(FINETUNESWEEPS, sweep("tenant", **trials))
    await client.create(FINETUNESCHEDULES, asked_schedule())
    await an_earlier_attempt_has_created_the_needs(client)
    await a_pod_pushes_and_its_job_is_paused_and_resumed(client, connection, port)
    await eventually_async(lambda: a_pod_is_bound(client, "stuck"), timeout=60)
    await eventually_async(lambda: job_is_deleted(client, "doomed-prepare"), timeout=60)
    await pod_is_stuck_in_deletion(client, "tenant", "lost")

    async def all_over():
        jobs = {
            job["metadata"]["name"]: job.get("status") or {}
            for job in (await client.list(FINETUNEJOBS, "tenant")).items
        }
        return (
            "short" not in jobs
            and not (await client.list(FINETUNESWEEPS, "tenant")).items
            and jobs["again"].get("phase") == jobs["paused"].get("phase") == "Succeeded"
            and jobs["broken"].get("phase") == "Failed"
            and (jobs["doomed"].get("lastFailure") or {}).get("reason") == "JobDeleted"
            and await job_is_there(client, "doomed-prepare")
            and (jobs["stuck"].get("lastFailure") or {}).get("reason") == "VolumesNotReady"
            and jobs["lost"].get("phase") not in (None, "Pending", "Preparing")
            and "NodeLost" in await event_reasons(client, "tenant", "lost")
            and await has_happened_twice(client, "Suspended")
            and await has_begun_a_cycle(client)
        )

    await eventually_async(all_over, timeout=150, interval=0.3)
    await an_endpoint_is_scaled_and_moves_to_another_server(client)


def asked_schedule() -> dict[str, Any]:
    """A schedule of which one cycle is asked for."""
    return {
        "apiVersion": FINETUNESCHEDULES.api_version,
        "kind": FINETUNESCHEDULES.kind,
        "metadata": {
            "name": "yearly",
            "namespace": "tenant",
            "annotations": {TRIGGER_ANNOTATION: "now"},
        },
        "spec": {
            "jobTemplate": {"spec": finetunejob("any", "tenant")["spec"]},
            "triggers": {"cron": "0 0 1 1 *"},
            "budget": {"jobs": 1},
            "promote": "Auto",
        },
    }


async def has_begun_a_cycle(client) -> bool:
    schedule = await client.get(FINETUNESCHEDULES, "tenant", "yearly")
    status = schedule.get("status") or {}
    return bool(status.get("history") or (status.get("active") or {}).get("jobUid"))


async def an_endpoint_is_scaled_and_moves_to_another_server(client) -> None:
    async with ServingPods(client, Behaviour(), namespaces=("tenant",)).running():
        serve = {"engine": "Transformers", "replicas": {"max": 2}}
        body = {
            "apiVersion": FINETUNEENDPOINTS.api_version,
            "kind": FINETUNEENDPOINTS.kind,
            "metadata": {"name": "asked", "namespace": "tenant"},
            "spec": {"jobRef": {"name": "again"}, "serve": serve},
        }
        await client.create(FINETUNEENDPOINTS, body)
        first = await the_server_of("asked", client)
        await patch_serve(client, {"replicas": {"max": 1}})
        await eventually_async(lambda: has_no_autoscaler(client), timeout=60, interval=0.2)
        await patch_serve(client, {"maxAdapters": 8})
        await eventually_async(lambda: is_replaced(client, first), timeout=60, interval=0.2)


async def patch_serve(client, change) -> None:
    patch = {"spec": {"serve": change}}
    await client.merge_patch(FINETUNEENDPOINTS, "tenant", "asked", patch)


async def has_no_autoscaler(client) -> bool:
    return not (await client.list(AUTOSCALERS, "tenant")).items


async def the_server_of(name, client) -> str:
    async def is_available():
        endpoint = await client.get(FINETUNEENDPOINTS, "tenant", name)
        active = (endpoint.get("status") or {}).get("active") or {}
        return holds(endpoint, "Available") and active.get("server")

    return await eventually_async(is_available, timeout=60, interval=0.2)


async def is_replaced(client, server) -> bool:
    found = await client.list(DEPLOYMENTS, "tenant")
    names = {each["metadata"]["name"] for each in found.items}
    return len(names) == 2 and server not in names


async def has_happened_twice(client, reason) -> bool:
    selector = f"involvedObject.kind=FineTuneJob,reason={reason}"
    found = await client.list(EVENTS, "tenant", field_selector=selector)
    return any((event.get("count") or 1) >= 2 for event in found.items)


async def an_earlier_attempt_has_created_the_needs(client) -> None:
    """A replica died after it had made the ConfigMap and the Service."""
    job = FineTuneJob.from_wire({**await get_job(client, "tenant", "again"), "status": None})
    owner = Owner(namespace="tenant", name="again", uid=job.metadata.uid)
    await client.create(CONFIG_MAPS, render_config_map(job, owner))
    await client.create(SERVICES, render_service(owner, OperatorConfig()))
    await client.merge_patch(FINETUNEJOBS, "tenant", "again", {"spec": {"suspend": False}})


async def a_pod_pushes_and_its_job_is_paused_and_resumed(client, connection, port) -> None:
    async def is_training():
        return holds(await get_job(client, "tenant", "paused"), "Training")

    await eventually_async(is_training, timeout=90, interval=0.2)
    token = await token_of(connection, "tenant", await pod_of(client, "paused", "train"))
    manager = type("Ports", (), {"ports": {"progress": port}})
    assert await push(manager, "tenant", "paused", token) == 200
    # Twice: an Event that happens again is counted up by a patch, ten seconds later.
    for number, suspend in enumerate((True, False, True, False)):
        if number == 3:
            RELEASED.add("paused")
        patch = {"spec": {"suspend": suspend}}
        await client.merge_patch(FINETUNEJOBS, "tenant", "paused", patch)

        async def has_followed(suspend=suspend):
            child = await client.get(JOBS, "tenant", "paused-train")
            job = await get_job(client, "tenant", "paused")
            told = holds(job, "Suspended") is suspend
            return told and child["spec"].get("suspend", False) is suspend

        await eventually_async(has_followed, timeout=60, interval=0.2)


async def pod_of(client, job, stage):
    selector = f"finetune.dev/job={job},finetune.dev/stage={stage}"
    found = (await client.list(PODS, "tenant", label_selector=selector)).items
    return found[0] if found else None


async def a_pod_is_bound(client, job) -> bool:
    """Give the pod a node and the kubelet's complaint: what `kubectl describe pod` would show."""
    pod = await pod_of(client, job, "prepare")
    if pod is None:
        return False
    name = pod["metadata"]["name"]
    node = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
    binding = {"metadata": {"name": name, "namespace": "tenant"}, "target": node}
    await client.create(BINDINGS, binding)
    reference = {"kind": "Pod", "namespace": "tenant", "name": name}
    event = {
        "metadata": {"name": f"{name}.1", "namespace": "tenant"},
        "involvedObject": {**reference, "uid": pod["metadata"]["uid"], "apiVersion": "v1"},
        "type": "Warning",
        "reason": "FailedMount",
        "message": 'secret "s3-rw" not found',
    }
    await client.create(EVENTS, event)
    return True


async def job_is_there(client, name) -> bool:
    try:
        child = await client.get(JOBS, "tenant", name)
    except NotFound:
        return False
    return "deletionTimestamp" not in child["metadata"]


async def job_is_deleted(client, name) -> bool:
    try:
        child = await client.get(JOBS, "tenant", name)
    except NotFound:
        return False
    if not child["status"].get("active"):
        return False
    job = await get_job(client, "tenant", name.removesuffix("-prepare"))
    if not (job.get("status") or {}).get("stages"):
        return False
    await client.delete(JOBS, "tenant", name)
    return True
