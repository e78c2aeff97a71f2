"""What is written for the front and the servers of endpoints: when, in what order, how often."""

from __future__ import annotations

import copy
import gc
import random
from typing import Any

import pytest

from finetune_api.meta import ENDPOINT_KIND
from finetune_api.names import (
    FRONT,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    SERVING,
    SERVING_LABEL,
    SERVING_TOKEN_SECRET,
    Owner,
)
from finetune_api.v1alpha1.spec.serving import Replicas, Serve
from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.memory.endpoints import Endpoints
from finetune_operator.controllers.refusals import NameTaken
from finetune_operator.controllers.serving_objects import (
    CHECK_SECONDS,
    OWNERS_SECONDS,
    REPAIR_SECONDS,
    ServingObjects,
)
from finetune_operator.finetuneendpoint.actions import ApplyServing, Front, NeededServer
from finetune_operator.finetuneendpoint.servers import Server
from finetune_operator.kube.api.errors import Conflict, Forbidden, ServerUnavailable
from finetune_operator.kube.cache.store import Store
from kit.cluster.fake_client import FakeClient
from kit.processes.clock import FakeClock

NAMESPACE = "team-a"
CONFIG = OperatorConfig(vllm_image="vllm:1")
SERVER = Server(
    namespace=NAMESPACE,
    base_model="hf://org/model",
    storage=ServedStorage(uri="s3://models"),
    serve=Serve(),
)
DOWN = ServerUnavailable("x", status=503)


def owners_of(*names: str) -> tuple[Owner, ...]:
    return tuple(
        Owner(namespace=NAMESPACE, name=name, uid=f"uid-{name}", kind=ENDPOINT_KIND)
        for name in names
    )


def serving(*names: str, replicas: Replicas | None = None) -> ApplyServing:
    owners = owners_of(*(names or ("one",)))
    needed = NeededServer(server=SERVER, owners=owners, replicas=replicas or Replicas())
    return ApplyServing(front=Front(namespace=NAMESPACE, owners=owners), servers=(needed,))


def closed_to(name: str) -> OperatorConfig:
    """Return settings with NetworkPolicies, under which a namespace may read reports."""
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
    return CONFIG.model_copy(update={"serving_report_peers": [peer]})


class World:
    """An API server that forgets nothing, and the operator's processes one after the other."""

    def __init__(self) -> None:
        self.client = FakeClient()
        self.clock = FakeClock()
        self.restart()

    def restart(self) -> None:
        """Begin a process that has only the caches."""
        self.endpoints = Endpoints(
            self.client,  # type: ignore[arg-type]
            Store(),
            wake=lambda key, priority: None,
            forget=lambda endpoint: None,
            namespaces=(),
            rng=random.Random(1),
        )
        for (plural, _, _), obj in self.client.cluster.objects.items():
            if plural == "deployments":
                self.endpoints.deployments.observe(None, dict(obj))
        self.objects = ServingObjects(
            self.client,  # type: ignore[arg-type]
            self.endpoints,
            clock=self.clock,
        )

    async def apply(self, wanted: ApplyServing) -> list[str]:
        """Apply; return the writes as ``verb Kind name``."""
        self.client.writes.clear()
        await self.objects.apply(wanted, CONFIG)
        return self.written()

    def written(self) -> list[str]:
        return [
            f"{verb} {body['kind']} {body['metadata']['name']}" for verb, body in self.client.writes
        ]

    def names(self, plural: str) -> set[str]:
        return {name for kind, _, name in self.client.cluster.objects if kind == plural}

    def live(self, plural: str, name: str) -> Any:
        return self.client.cluster.objects[plural, NAMESPACE, name]

    def set_status(self, name: str, status: dict[str, int]) -> None:
        """Write the status of a Deployment, as its controller does."""
        found = {**copy.deepcopy(self.live("deployments", name)), "status": status}
        stored = self.client.cluster.store(("deployments", NAMESPACE, name), found)
        self.endpoints.deployments.observe("MODIFIED", stored)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_deployment_comes_before_its_parts_and_is_marked_after_them(world: World) -> None:
    written = await world.apply(serving())
    front = [each for each in written if SERVER.name not in each]
    assert front[0] == front[-1] == f"apply Deployment {FRONT}"
    assert front[1] == f"create Service {FRONT}"
    assert f"create Secret {SERVING_TOKEN_SECRET}" in front
    uid = world.live("deployments", FRONT)["metadata"]["uid"]
    for plural, name in (("services", FRONT), ("secrets", SERVING_TOKEN_SECRET),
                         ("roles", SERVING)):  # fmt: skip
        assert world.live(plural, name)["metadata"]["ownerReferences"][0]["uid"] == uid


async def test_what_is_as_wanted_costs_no_request_also_after_a_restart(world: World) -> None:
    await world.apply(serving())
    assert await world.apply(serving()) == []
    world.restart()
    assert await world.apply(serving()) == []


async def test_a_new_owner_costs_one_write_of_each_deployment(world: World) -> None:
    await world.apply(serving())
    written = await world.apply(serving("one", "two"))
    assert written == [f"apply Deployment {SERVER.name}", f"apply Deployment {FRONT}"]
    owners = world.live("deployments", SERVER.name)["metadata"]["ownerReferences"]
    assert [each["name"] for each in owners] == ["one", "two"]
    assert await world.apply(serving("two", "one")) == []


async def test_owners_that_join_one_after_the_other_are_written_together(world: World) -> None:
    await world.apply(serving())
    await world.apply(serving("one", "two"))
    world.client.writes.clear()
    assert not await world.objects.apply(serving("one", "two", "three"), CONFIG)
    assert not await world.objects.apply(serving("one", "two", "three", "four"), CONFIG)
    assert world.written() == []
    world.clock.advance(OWNERS_SECONDS)
    assert await world.objects.apply(serving("one", "two", "three", "four"), CONFIG)
    assert len(world.written()) == 2


async def test_a_death_at_any_write_leaves_nothing_out(world: World) -> None:
    num_writes = len(await world.apply(serving()))
    expected = sorted(world.client.cluster.objects)
    for dies_at in range(num_writes):
        again = World()
        again.client.faults.extend([None] * dies_at + [DOWN])
        with pytest.raises(ServerUnavailable):
            await again.apply(serving())
        again.client.faults.clear()
        again.restart()
        await again.apply(serving())
        assert sorted(again.client.cluster.objects) == expected
        assert await again.apply(serving()) == []


async def test_a_service_of_somebody_else_is_left_alone(world: World) -> None:
    foreign = {"metadata": {"name": SERVER.name, "namespace": NAMESPACE}, "spec": {"x": 1}}
    world.client.cluster.store(("services", NAMESPACE, SERVER.name), foreign)
    with pytest.raises(NameTaken, match=f"Service {SERVER.name}"):
        await world.apply(serving())
    assert world.live("services", SERVER.name)["spec"] == {"x": 1}
    del world.client.cluster.objects["services", NAMESPACE, SERVER.name]
    await world.apply(serving())
    assert SERVER.name in world.names("services")


async def test_an_autoscaler_goes_when_the_number_of_pods_is_fixed(world: World) -> None:
    await world.apply(serving(replicas=Replicas(min=1, max=3)))
    assert "replicas" not in world.live("deployments", SERVER.name)["spec"]
    assert world.names("horizontalpodautoscalers") == {SERVER.name}
    await world.apply(serving(replicas=Replicas(min=2, max=2)))
    assert world.live("deployments", SERVER.name)["spec"]["replicas"] == 2
    assert world.names("horizontalpodautoscalers") == set()


async def test_an_autoscaler_of_somebody_else_is_not_deleted(world: World) -> None:
    await world.apply(serving(replicas=Replicas(min=2, max=2)))
    foreign = {"metadata": {"name": SERVER.name, "namespace": NAMESPACE}, "spec": {"x": 1}}
    world.client.cluster.store(("horizontalpodautoscalers", NAMESPACE, SERVER.name), foreign)
    await world.apply(serving(replicas=Replicas(min=3, max=3)))
    assert world.live("deployments", SERVER.name)["spec"]["replicas"] == 3
    assert world.live("horizontalpodautoscalers", SERVER.name)["spec"] == {"x": 1}


async def test_the_number_of_pods_outlasts_the_change_to_an_autoscaler(world: World) -> None:
    await world.apply(serving(replicas=Replicas(min=4, max=4)))
    await world.apply(serving(replicas=Replicas(min=2, max=8)))
    assert world.live("deployments", SERVER.name)["spec"]["replicas"] == 4


async def test_with_keda_its_scaler_takes_the_place_of_the_other(world: World) -> None:
    scaled = serving(replicas=Replicas(min=1, max=3))
    await world.apply(scaled)
    keda = CONFIG.model_copy(update={"keda_prometheus_url": "http://prometheus:9090"})
    await world.objects.apply(scaled, keda)
    assert world.names("scaledobjects") == {SERVER.name}
    assert world.names("horizontalpodautoscalers") == set()
    await world.objects.apply(serving(replicas=Replicas(min=1, max=1)), keda)
    assert world.names("scaledobjects") == set()


async def test_who_may_read_reports_follows_the_configuration(world: World) -> None:
    await world.apply(serving())
    assert world.names("networkpolicies") == set()
    for name in ("finetune-system", "monitoring"):
        closed = closed_to(name)
        await world.objects.apply(serving(), closed)
        assert world.names("networkpolicies") == {FRONT, SERVER.name}
        for policy in (world.live("networkpolicies", each) for each in (FRONT, SERVER.name)):
            assert policy["spec"]["ingress"][1]["from"] == closed.serving_report_peers
            owner = world.live("deployments", policy["metadata"]["name"])["metadata"]["uid"]
            assert policy["metadata"]["ownerReferences"][0]["uid"] == owner
    world.client.writes.clear()
    await world.objects.apply(serving(), closed)
    assert world.written() == []


async def test_what_vanished_is_made_again_while_no_pod_is_ready(world: World) -> None:
    await world.apply(serving())
    del world.client.cluster.objects["secrets", NAMESPACE, SERVING_TOKEN_SECRET]
    await world.apply(serving())
    assert world.names("secrets") == set()
    world.clock.advance(REPAIR_SECONDS)
    await world.apply(serving())
    assert world.names("secrets") == {SERVING_TOKEN_SECRET}


@pytest.mark.parametrize(
    ("plural", "name"), [("serviceaccounts", SERVING), ("secrets", SERVING_TOKEN_SECRET)]
)
async def test_what_a_new_server_pod_needs_is_made_again_while_fronts_run_on(
    world: World, plural: str, name: str
) -> None:
    await world.apply(serving())
    world.set_status(FRONT, {"readyReplicas": 2})
    del world.client.cluster.objects[plural, NAMESPACE, name]
    await world.apply(serving())
    world.clock.advance(REPAIR_SECONDS)
    await world.apply(serving())
    assert world.names(plural) == {name}
    num_writes = len(await world.apply(serving()))
    assert num_writes == 0


async def test_the_token_is_made_again_for_one_pod_that_waits_while_others_are_ready(
    world: World,
) -> None:
    await world.apply(serving())
    for name in world.names("deployments"):
        world.set_status(name, {"readyReplicas": 2, "unavailableReplicas": int(name == FRONT)})
    del world.client.cluster.objects["secrets", NAMESPACE, SERVING_TOKEN_SECRET]
    await world.apply(serving())
    world.clock.advance(REPAIR_SECONDS)
    await world.apply(serving())
    assert world.names("secrets") == {SERVING_TOKEN_SECRET}


@pytest.mark.parametrize(
    ("plural", "name"),
    [
        ("services", FRONT),
        ("services", SERVER.name),
        ("roles", SERVING),
        ("rolebindings", SERVING),
        ("poddisruptionbudgets", FRONT),
        ("poddisruptionbudgets", SERVER.name),
        ("networkpolicies", FRONT),
        ("networkpolicies", SERVER.name),
        ("horizontalpodautoscalers", SERVER.name),
    ],
)
async def test_a_part_that_somebody_deleted_comes_back_while_all_pods_are_ready(
    world: World, plural: str, name: str
) -> None:
    scaled, config = serving(replicas=Replicas(min=1, max=3)), closed_to("monitoring")
    await world.objects.apply(scaled, config)
    for deployment in world.names("deployments"):
        world.set_status(deployment, {"readyReplicas": 1})
    await world.objects.apply(scaled, config)
    del world.client.cluster.objects[plural, NAMESPACE, name]
    world.clock.advance(CHECK_SECONDS - 1.0)
    await world.objects.apply(scaled, config)
    assert name not in world.names(plural)
    world.clock.advance(1.0)
    await world.objects.apply(scaled, config)
    assert name in world.names(plural)
    world.client.writes.clear()
    await world.objects.apply(scaled, config)
    assert world.written() == []


async def test_a_full_quota_stops_neither_a_ready_endpoint_nor_its_other_parts(
    world: World,
) -> None:
    wanted, config = serving(), closed_to("monitoring")
    await world.objects.apply(wanted, config)
    for deployment in world.names("deployments"):
        world.set_status(deployment, {"readyReplicas": 1})
    await world.objects.apply(wanted, config)
    del world.client.cluster.objects["networkpolicies", NAMESPACE, FRONT]
    world.clock.advance(CHECK_SECONDS)
    world.client.faults.append(Forbidden("create", status=403))
    await world.objects.apply(wanted, config)
    assert FRONT in world.names("networkpolicies")


async def test_the_last_endpoint_that_leaves_a_server_deletes_it(world: World) -> None:
    await world.apply(serving("one", "two"))
    await world.objects.release(NAMESPACE, [SERVER.name], "uid-two")
    owners = world.live("deployments", SERVER.name)["metadata"]["ownerReferences"]
    assert [each["name"] for each in owners] == ["one"]
    await world.objects.release(NAMESPACE, [SERVER.name], "uid-two")
    assert world.names("deployments") == {FRONT, SERVER.name}
    await world.objects.release(NAMESPACE, [SERVER.name], "uid-one")
    assert world.names("deployments") == {FRONT}


async def test_no_lock_outlasts_its_use(world: World) -> None:
    await world.apply(serving())
    await world.objects.release(NAMESPACE, [SERVER.name, "fts-gone"], "uid-one")
    gc.collect()
    assert len(world.objects._locks) == 0


@pytest.mark.parametrize("is_labelled", [False, True], ids=["without our labels", "with them"])
async def test_a_deployment_of_somebody_else_is_left_alone(world: World, is_labelled: bool) -> None:
    labels = {SERVING_LABEL: "server", MANAGED_BY_LABEL: MANAGED_BY} if is_labelled else {}
    foreign = {
        "metadata": {"name": SERVER.name, "namespace": NAMESPACE, "labels": labels},
        "spec": {"x": 1},
    }
    stored = world.client.cluster.store(("deployments", NAMESPACE, SERVER.name), foreign)
    if is_labelled:
        world.endpoints.deployments.observe("ADDED", stored)
    with pytest.raises(NameTaken, match=f"kubectl delete deployment {SERVER.name}"):
        await world.apply(serving())
    assert world.live("deployments", SERVER.name)["spec"] == {"x": 1}
    assert world.written() == []


async def test_a_deployment_whose_owners_are_gone_is_ours_if_we_wrote_it(world: World) -> None:
    await world.apply(serving("one"))
    live = world.live("deployments", SERVER.name)
    live["metadata"] |= {"ownerReferences": [], "managedFields": [{"manager": MANAGED_BY}]}
    live = world.live("deployments", FRONT)
    live["metadata"] |= {"ownerReferences": [], "managedFields": [{"manager": MANAGED_BY}]}
    world.restart()
    await world.apply(serving("two"))
    owners = world.live("deployments", SERVER.name)["metadata"]["ownerReferences"]
    assert [each["name"] for each in owners] == ["two"]


@pytest.mark.parametrize(
    "changed", [{"replicas": 0}, {"template": {"spec": {}}}], ids=["pods", "template"]
)
async def test_what_somebody_has_changed_is_put_back(world: World, changed: Any) -> None:
    await world.apply(serving())
    wanted = copy.deepcopy(world.live("deployments", SERVER.name)["spec"])
    live = copy.deepcopy(world.live("deployments", SERVER.name))
    live["spec"] |= changed
    key = ("deployments", NAMESPACE, SERVER.name)
    world.endpoints.deployments.observe("MODIFIED", world.client.cluster.store(key, live))
    await world.apply(serving())
    assert world.live("deployments", SERVER.name)["spec"] == wanted
    assert await world.apply(serving()) == []


async def test_an_autoscaler_of_somebody_else_is_not_taken_by_force(world: World) -> None:
    scaled = serving(replicas=Replicas(min=1, max=3))
    apply: Any = world.client.apply

    async def refuse(resource: Any, obj: Any, *, force: bool = True, **settings: Any) -> Any:
        if resource.plural == "horizontalpodautoscalers" and not force:
            raise Conflict("apply", status=409)
        return await apply(resource, obj, force=force, **settings)

    world.client.apply = refuse  # type: ignore[method-assign]
    with pytest.raises(NameTaken, match=f"HorizontalPodAutoscaler {SERVER.name}"):
        await world.apply(scaled)
