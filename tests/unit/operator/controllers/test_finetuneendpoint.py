"""``reconcile`` of FineTuneEndpoints: what it reads, writes and remembers."""

from __future__ import annotations

import random
from typing import Any

import pytest

from finetune_api.names import FRONT
from finetune_api.protocol.serving import (
    FrontEndpoint,
    FrontReport,
)
from finetune_operator.kube.api.errors import Conflict, Forbidden
from finetune_operator.kube.queue.workers import Done, RequeueAfter, Retry
from kit.builders.endpoints import NAME, NAMESPACE, ROLLOUT, endpoint, published_job
from kit.builders.reconciled import KEY, World, live

Object = dict[str, Any]


@pytest.fixture
def world() -> World:
    found = World()
    found.put("finetunejobs", published_job(1))
    found.put("finetuneendpoints", endpoint())
    return found


async def test_the_status_is_written_before_anything_is_created(world: World) -> None:
    result = await world.look()
    written = world.written()
    assert written[0] == "apply FineTuneEndpoint"
    assert "apply Deployment" in written[1:]
    server = world.status["candidate"]["server"]
    assert world.servers() == {FRONT, server}
    assert isinstance(result, RequeueAfter)


async def test_a_verified_version_answers_and_an_idle_endpoint_costs_no_write(
    world: World,
) -> None:
    await live(world)
    await world.look()
    assert world.condition("Available") == ("True", "Serving")
    for _ in range(3):
        assert await world.look() == Done()
        assert world.client.writes == []
    world.restart()
    assert await world.look() == Done()
    assert world.client.writes == []


async def test_pods_are_asked_often_only_while_a_version_waits(world: World) -> None:
    await world.look()
    server = world.status["candidate"]["server"]
    assert world.endpoints.targets() == {(NAMESPACE, FRONT), (NAMESPACE, server)}
    world.serve()
    await world.look()
    assert world.endpoints.targets() == set()


async def test_the_next_version_is_a_candidate_and_a_refused_one_is_told(world: World) -> None:
    await live(world)
    world.woken.clear()
    world.edit(rollout=ROLLOUT)
    world.put("finetunejobs", published_job(2))
    assert KEY in world.woken
    await world.look()
    assert world.status["candidate"]["version"] == 2
    world.serve(reason="AnswersLikeBase")
    await world.look()
    assert "candidate" not in world.status
    assert world.status["active"]["version"] == 1
    assert world.condition("Verified") == ("False", "AnswersLikeBase")
    assert "Refused" in [reason for reason, _ in world.recorder.events]


async def test_what_the_api_server_refuses_is_told_and_tried_again(world: World) -> None:
    quota = Forbidden("create", status=403, message="exceeded quota")
    world.client.faults.extend([None, quota])
    result = await world.look()
    assert world.condition("Stalled") == ("True", "Forbidden")
    assert isinstance(result, RequeueAfter)
    world.clock.advance(60.0)
    await world.look()
    assert world.condition("Stalled")[0] == "False"
    assert FRONT in world.servers()


async def test_keys_are_sent_to_no_endpoint_that_left_the_list_after_the_job(world: World) -> None:
    await live(world)
    before = world.servers()
    job = published_job(2, s3={"endpoint": "https://left.example"})
    world.put("finetunejobs", job)
    result = await world.look()
    assert world.status["candidate"]["storage"]["endpoint"] == "https://left.example"
    assert world.servers() == before
    assert world.condition("Stalled") == ("True", "EndpointNotAllowed")
    assert world.condition("Available")[0] == "True"
    assert isinstance(result, RequeueAfter)
    world.put("finetunejobs", published_job(3))
    await world.look()
    assert world.condition("Stalled")[0] == "False"


async def test_a_deployment_of_a_user_that_names_an_endpoint_as_its_owner_stays(
    world: World,
) -> None:
    await live(world)
    server = world.status["active"]["server"]
    live_server = world.client.cluster.objects["deployments", NAMESPACE, server]
    metadata = {**live_server["metadata"], "name": "dashboard", "uid": "uid-of-dashboard"}
    world.put("deployments", {**live_server, "metadata": metadata})
    await world.look()
    assert "dashboard" in world.servers()


async def test_a_gateway_learns_the_weights_after_the_fronts_and_forgets_them() -> None:
    world = World(gateway="InferencePool/fronts")
    world.put("finetunejobs", published_job(1))
    world.put("finetuneendpoints", endpoint(serve={"routing": "Gateway"}))
    await live(world)
    written = world.written()
    assert written.index("apply FineTuneEndpoint") < written.index("apply InferenceModelRewrite")
    key = ("inferencemodelrewrites", *KEY)
    (rule,) = world.client.cluster.objects[key]["spec"]["rules"]
    assert rule["targets"] == [{"modelRewrite": f"{NAME}@1", "weight": 100}]
    await world.look()
    assert await world.look() == Done()
    assert world.client.writes == []
    world.edit(serve={"routing": "Front"})
    await world.look()
    assert key not in world.client.cluster.objects


async def test_without_a_gateway_the_endpoint_is_stalled_until_its_spec_changes() -> None:
    world = World()
    world.put("finetunejobs", published_job(1))
    world.put("finetuneendpoints", endpoint(serve={"routing": "Gateway"}))
    await world.look()
    assert world.condition("Stalled") == ("True", "GatewayNotFound")
    assert world.servers() == {FRONT}
    world.edit(serve={"routing": "Front"})
    await live(world)
    assert world.condition("Stalled")[0] == "False"


async def test_a_conflict_over_the_status_creates_nothing(world: World) -> None:
    world.client.faults.append(Conflict("apply", status=409))
    assert isinstance(await world.look(), Retry)
    assert world.servers() == set()


async def test_an_endpoint_that_is_gone_is_forgotten(world: World) -> None:
    del world.client.cluster.objects["finetuneendpoints", *KEY]
    assert await world.look() == Done()
    assert world.endpoints.store.get(*KEY) is None


async def test_a_server_that_an_endpoint_left_wakes_those_that_share_it(world: World) -> None:
    await live(world)
    other = endpoint("other")
    other["status"] = {"active": world.status["active"]}
    world.put("finetuneendpoints", other)
    world.edit(serve={"dedicated": True})
    await world.look()
    world.serve()
    world.woken.clear()
    await world.look()
    assert (NAMESPACE, "other") in world.woken


async def test_a_job_of_another_name_wakes_nobody(world: World) -> None:
    world.woken.clear()
    other = published_job(1)
    other["metadata"] |= {"name": "other", "uid": "another"}
    world.put("finetunejobs", other)
    assert world.woken == []


async def test_a_report_wakes_only_the_endpoints_whose_part_has_changed(world: World) -> None:
    await live(world)
    other = endpoint("other")
    other["status"] = {"active": {**world.status["active"], "adapter": "other"}}
    world.put("finetuneendpoints", other)
    reports = world.endpoints.new_reports(clock=world.clock, rng=random.Random(1))
    front = next(each for each in world.endpoints.pods.objects() if each["deployment"] == FRONT)
    before = FrontReport(id="boot", endpoints=[FrontEndpoint(name=NAME)])
    after = FrontReport(
        id="boot", endpoints=[FrontEndpoint(name=NAME), FrontEndpoint(name="other")]
    )
    world.woken.clear()
    reports._on_news(front, before, after)
    assert world.woken == [(NAMESPACE, "other")]
    assert reports._names((NAMESPACE, FRONT)) == {NAME, "other"}
    server = world.status["active"]["server"]
    assert reports._names((NAMESPACE, server)) == {world.status["active"]["adapter"], "other"}
    assert reports._num_pods((NAMESPACE, server)) == 2
    assert reports._num_pods((NAMESPACE, "unknown")) == 0


def test_what_users_may_write_at_will_on_an_endpoint_is_not_cached(world: World) -> None:
    crowded = endpoint()
    crowded["metadata"] |= {"annotations": {"a": "x"}, "labels": {"b": "x"}, "managedFields": [{}]}
    world.put("finetuneendpoints", crowded)
    cached = world.endpoints.store.get(*KEY)
    assert cached is not None
    assert not cached["metadata"].keys() & {"annotations", "labels", "managedFields"}


async def test_the_newest_version_of_all_jobs_that_publish_under_the_name_is_followed(
    world: World,
) -> None:
    await live(world)
    other = published_job(2)
    other["metadata"] |= {"name": "weekly-29612345", "uid": "uid-of-the-other"}
    other["spec"]["output"]["publishAs"] = published_job()["metadata"]["name"]
    world.woken.clear()
    world.put("finetunejobs", other)
    assert KEY in world.woken
    await world.look()
    assert world.status["candidate"]["version"] == 2
    assert world.status["candidate"]["jobUid"] == "uid-of-the-other"
