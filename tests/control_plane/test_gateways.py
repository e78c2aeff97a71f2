"""Endpoints behind an inference gateway, under the chart's rights, on a real API server.

No gateway runs: the objects for it are looked at. With ``FINETUNE_GATEWAY_CRDS`` the API server
judges them by the gateways' own schemas.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.test_endpoints import NAME, World, endpoint, exists, serves
from finetune_api.meta import ENDPOINT_KIND
from finetune_api.names import FRONT, Owner
from finetune_operator.controllers.memory.endpoints import FINETUNEENDPOINTS
from finetune_operator.finetuneendpoint.render.gateway import (
    render_gateway_parts,
    render_split,
)
from finetune_operator.finetuneendpoint.render.metadata import Deployed
from finetune_operator.kube.api.errors import Invalid
from finetune_operator.kube.api.resource import (
    AI_GATEWAY_ROUTES,
    AI_SERVICE_BACKENDS,
    GATEWAY_BACKENDS,
    MODEL_REWRITES,
)
from kit.cluster.chart import HelmNotFoundError, install_crd, render_chart
from kit.cluster.gateway_crds import RESOURCES, install_gateway_crds, real_crds
from kit.cluster.rights import rules_of, used
from kit.processes.audit_log import AuditLog
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    OperatorProcess,
    condition,
    connection_of,
    holds,
    open_client,
)

USER = "system:serviceaccount:finetune-system:finetune-operator"
GROUPS = {resource.group for resource in RESOURCES}
AI, POOL = "Gateway/infra/ai", "InferencePool/fronts"
BEHIND = {
    "serve": {"engine": "Transformers", "routing": "Gateway"},
    "access": {"keysFrom": {"secretRef": {"name": "keys"}}},
    "rollout": {"steps": [50, 100], "minRequests": 150},
}
APPLY_OF_PARTS = {
    # A server-side apply that creates needs both rights, and is logged as a patch.
    ("create", "aigateway.envoyproxy.io", "aiservicebackends"),
    ("create", "gateway.envoyproxy.io", "backends"),
}


def grant_rights(cluster: Any) -> set[Any]:
    """Give the operator what the chart grants it where both gateways are configured."""
    policy = [{"namespaces": ["pooled"], "gateway": POOL}]
    values = ("--set", "kueue.enabled=false", "--set", f"config.gateway={AI}")
    try:
        documents = render_chart([*values, "--set-json", f"config.policies={json.dumps(policy)}"])
    except HelmNotFoundError as error:
        pytest.skip(str(error))
    roles = [each for each in documents if each["apiVersion"].startswith("rbac.")]
    manifest = {"apiVersion": "v1", "kind": "List", "items": roles}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    return {rule for rule in rules_of(roles) if rule[1] in GROUPS}


def new_operator(cluster: Any, folder: Path) -> OperatorProcess:
    return OperatorProcess(
        cluster,
        folder,
        kubeconfig=str(cluster.kubeconfig_for(USER)),
        leaderElectionNamespace="finetune-system",
        gateway=AI,
        policies=[{"namespaces": ["pooled"], "gateway": POOL}],
    )


@contextlib.asynccontextmanager
async def living(client: Any, *namespaces: str) -> AsyncIterator[list[World]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(World(client, each).living()) for each in namespaces]


async def test_weights_follow_a_rollout_and_each_right_of_the_chart_is_used(
    private_control_plane: Any, tmp_path: Path
) -> None:
    cluster = private_control_plane
    for name in ("finetune-system", "routed", "pooled"):
        cluster.kubectl("create", "namespace", name)
    install_crd(cluster)
    rights = grant_rights(cluster)
    assert len(rights) == 14
    operator = new_operator(cluster, tmp_path / "without")
    async with (
        open_client(connection_of(cluster)) as client,
        living(client, "routed", "pooled") as worlds,
    ):
        try:
            for world in worlds:
                await client.create(FINETUNEENDPOINTS, endpoint(world.namespace, **BEHIND))
                told = await world.until(lambda status: holds({"status": status}, "Stalled"))
                stalled = condition({"status": told}, "Stalled")
                assert stalled is not None
                assert stalled["reason"] == "GatewayNotFound"
            assert "AIGatewayRoute" in condition({"status": await worlds[0].status()}, "Stalled")[
                "message"
            ]  # fmt: skip
            operator.stop()
            install_gateway_crds(cluster)
            operator = new_operator(cluster, tmp_path / "with")
            for world, resource in zip(worlds, (AI_GATEWAY_ROUTES, MODEL_REWRITES), strict=True):
                await follow_a_rollout(client, world, resource)
        finally:
            operator.stop()
    found, refused = used(AuditLog(Path(cluster.audit_log)).entries(), {USER})
    assert refused == []
    assert rights - found == APPLY_OF_PARTS


async def follow_a_rollout(client: Any, world: World, resource: Any) -> None:
    namespace = world.namespace

    async def weights() -> list[int]:
        live = await client.get(resource, namespace, NAME)
        (rule,) = live["spec"]["rules"]
        return [each["weight"] for each in rule.get("backendRefs") or rule["targets"]]

    async def are(wanted: list[int]) -> None:
        async def is_so() -> bool:
            return await exists(client, resource, namespace, NAME) and await weights() == wanted

        await eventually_async(is_so, timeout=60)

    await world.publish(1)
    await world.until(serves(1))
    await are([100])
    world.behaviour.can_count = lambda version: False
    await world.publish(2)
    await are([50, 50])
    world.behaviour.can_count = lambda version: True
    await world.until(serves(2))
    await are([100])
    if resource is AI_GATEWAY_ROUTES:
        for part in (AI_SERVICE_BACKENDS, GATEWAY_BACKENDS):
            assert await exists(client, part, namespace, FRONT)
    front = {"spec": {"serve": {"routing": "Front"}}}
    await client.merge_patch(FINETUNEENDPOINTS, namespace, NAME, front)

    async def is_gone() -> bool:
        return not await exists(client, resource, namespace, NAME)

    await eventually_async(is_gone, timeout=60)


@pytest.mark.skipif(real_crds() is None, reason="FINETUNE_GATEWAY_CRDS names no folder with CRDs")
async def test_the_gateways_own_schemas_take_the_objects_and_refuse_others(
    private_control_plane: Any,
) -> None:
    cluster = private_control_plane
    install_gateway_crds(cluster)
    owner = Owner(namespace="default", name=NAME, uid="uid-1", kind=ENDPOINT_KIND)
    front = Deployed(name=FRONT, uid="uid-2")
    async with open_client(connection_of(cluster)) as client:
        by_kind = {resource.kind: resource for resource in RESOURCES}
        for gateway in (AI, POOL):
            for weights in (((1, 100),), ((1, 95), (2, 5))):
                split = render_split(owner, weights, gateway)
                parts = render_gateway_parts("default", front, gateway)
                for manifest in (*parts, split):
                    resource = by_kind[manifest["kind"]]
                    assert manifest["apiVersion"] == resource.api_version
                    stored = await client.create(resource, manifest, strict=True, dry_run=True)
                    assert stored["spec"] == manifest["spec"]  # no default was left out
                (rule,) = split["spec"]["rules"]
                (rule.get("backendRefs") or rule["targets"])[0]["weight"] = -1
                with pytest.raises(Invalid, match="weight"):
                    await client.create(by_kind[split["kind"]], split, dry_run=True)
