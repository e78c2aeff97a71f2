"""What is written for an inference gateway: when, how often, and what is left alone."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from finetune_api.meta import ENDPOINT_KIND
from finetune_api.names import FRONT, Owner
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.gateway_objects import GatewayObjects
from finetune_operator.controllers.memory.endpoints import Endpoints
from finetune_operator.controllers.refusals import NameTaken
from finetune_operator.finetuneendpoint.actions import Split
from finetune_operator.kube.cache.store import Store
from kit.cluster.fake_client import FakeClient

AI, POOL = "Gateway/infra/ai", "InferencePool/fronts"
NAMESPACE, NAME = "team-a", "headlines"
OWNER = Owner(namespace=NAMESPACE, name=NAME, uid="uid-1", kind=ENDPOINT_KIND)
ROUTES, REWRITES = "aigatewayroutes", "inferencemodelrewrites"


class World:
    """An API server, caches of it, and the endpoints that were woken."""

    def __init__(self, *gateways: str) -> None:
        self.client = FakeClient()
        self.woken: list[tuple[str, str]] = []
        self.endpoints = Endpoints(
            self.client,  # type: ignore[arg-type]
            Store(),
            wake=lambda key, priority: self.woken.append(key),
            forget=lambda endpoint: None,
            namespaces=(),
            gateways=gateways,
            rng=random.Random(1),
        )
        self.objects = GatewayObjects(self.client, self.endpoints)  # type: ignore[arg-type]
        metadata = {"name": FRONT, "namespace": NAMESPACE, "uid": "uid-front"}
        self.endpoints.deployments.observe(None, {"metadata": {**metadata, "resourceVersion": "1"}})

    async def apply(self, gateway: str, *weights: tuple[int, int]) -> list[str]:
        """Apply; return the writes as ``verb Kind``."""
        self.client.writes.clear()
        split = Split(owner=OWNER, weights=weights)
        await self.objects.apply(split, OperatorConfig(gateway=gateway))
        return [f"{verb} {body['kind']}" for verb, body in self.client.writes]

    def live(self, plural: str) -> Any:
        return self.client.cluster.objects.get((plural, NAMESPACE, NAME))

    def store(self, plural: str, obj: Any) -> Any:
        return self.client.cluster.store((plural, NAMESPACE, NAME), obj)


@pytest.fixture
def world() -> World:
    return World(AI, POOL)


async def test_a_route_comes_after_what_it_refers_to_and_then_follows_the_weights(
    world: World,
) -> None:
    written = await world.apply(AI, (1, 100))
    assert written == ["apply Backend", "apply AIServiceBackend", "apply AIGatewayRoute"]
    await world.apply(AI, (1, 95), (2, 5))
    (rule,) = world.live(ROUTES)["spec"]["rules"]
    assert [each["weight"] for each in rule["backendRefs"]] == [95, 5]


async def test_a_rewrite_needs_nothing_beside_it(world: World) -> None:
    assert await world.apply(POOL, (1, 100)) == ["apply InferenceModelRewrite"]


async def test_what_is_as_wanted_costs_no_request_also_with_the_servers_defaults(
    world: World,
) -> None:
    await world.apply(POOL, (1, 100))
    assert await world.apply(POOL, (1, 100)) == []
    stored = copy.deepcopy(world.live(REWRITES))
    stored["spec"]["rules"][0]["byTheServer"] = "default"
    world.endpoints.splits["InferenceModelRewrite"].store.observe(
        "MODIFIED", world.store(REWRITES, stored)
    )
    assert await world.apply(POOL, (1, 100)) == []


@pytest.mark.parametrize("change", ["weight", "another rule"])
async def test_what_somebody_has_changed_is_put_back(world: World, change: str) -> None:
    await world.apply(POOL, (1, 95), (2, 5))
    wanted = world.live(REWRITES)["spec"]
    stored = copy.deepcopy(world.live(REWRITES))
    if change == "weight":
        stored["spec"]["rules"][0]["targets"][1]["weight"] = 100
    else:
        stored["spec"]["rules"].append({"targets": [{"modelRewrite": "other"}]})
    world.endpoints.store.observe("ADDED", {"metadata": {
        "name": NAME, "namespace": NAMESPACE, "uid": "uid-1", "resourceVersion": "1"}})  # fmt: skip
    world.woken.clear()
    world.endpoints.splits["InferenceModelRewrite"].store.observe(
        "MODIFIED", world.store(REWRITES, stored)
    )
    assert world.woken == [(NAMESPACE, NAME)]
    assert await world.apply(POOL, (1, 95), (2, 5)) == ["apply InferenceModelRewrite"]
    assert world.live(REWRITES)["spec"] == wanted


async def test_an_endpoint_that_no_gateway_divides_has_no_object(world: World) -> None:
    await world.apply(AI, (1, 100))
    assert await world.apply(AI) == ["delete AIGatewayRoute"]
    assert await world.apply(AI) == []
    assert world.live(ROUTES) is None


async def test_another_gateway_takes_the_place_of_the_first(world: World) -> None:
    await world.apply(AI, (1, 100))
    assert await world.apply(POOL, (1, 100)) == [
        "delete AIGatewayRoute",
        "apply InferenceModelRewrite",
    ]


async def test_an_object_of_somebody_else_is_left_alone(world: World) -> None:
    world.store(REWRITES, {"metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {"x": 1}})
    with pytest.raises(NameTaken, match=f"InferenceModelRewrite {NAME}"):
        await world.apply(POOL, (1, 100))
    foreign = world.store(REWRITES, world.live(REWRITES))
    world.endpoints.splits["InferenceModelRewrite"].store.observe("ADDED", foreign)
    with pytest.raises(NameTaken, match=f"InferenceModelRewrite {NAME}"):
        await world.apply(POOL, (1, 100))
    assert await world.apply(POOL) == []
    assert world.live(REWRITES)["spec"] == {"x": 1}


async def test_without_a_gateway_in_the_settings_nothing_is_watched_or_written() -> None:
    world = World()
    assert world.endpoints.splits == {}
    assert len(world.endpoints.informers) == 5
    assert await world.apply("", (1, 100)) == []


async def test_all_endpoints_look_again_once_the_kind_is_served(world: World) -> None:
    metadata = {"name": NAME, "namespace": NAMESPACE, "uid": "uid-1", "resourceVersion": "1"}
    world.endpoints.store.observe("ADDED", {"metadata": metadata})
    informer = world.endpoints.splits["AIGatewayRoute"]
    assert "AIGatewayRoute" in world.endpoints.served_splits(NAMESPACE)
    world.woken.clear()
    informer._note("", informer.scopes.note_absent, "404")
    assert world.endpoints.served_splits(NAMESPACE) == {"InferenceModelRewrite"}
    assert world.woken == [(NAMESPACE, NAME)]
    informer._note("", informer.scopes.note_listed, "")
    assert "AIGatewayRoute" in world.endpoints.served_splits(NAMESPACE)
    assert len(world.woken) == 2
