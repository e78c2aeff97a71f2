"""``reconcile`` of FineTuneEndpoints: what it reads, writes and remembers."""

from __future__ import annotations

import copy
import random
from functools import partial
from typing import Any

import pytest

from finetune_api.names import FRONT
from finetune_api.protocol.serving import (
    EngineReport,
    FrontEndpoint,
    FrontReport,
    RecordReport,
    ServerReport,
)
from finetune_operator.controllers.finetuneendpoint import MOVE_SECONDS
from finetune_operator.controllers.serving_objects import CHECK_SECONDS, check_seconds
from finetune_operator.kube.api.errors import Conflict, Forbidden, Invalid
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
        assert await world.look() == RequeueAfter(check_seconds(f"uid-of-{NAME}"))
        assert world.client.writes == []
    world.restart()
    assert await world.look() == RequeueAfter(check_seconds(f"uid-of-{NAME}"))
    assert world.client.writes == []


def test_checks_of_endpoints_are_spread_over_ten_minutes() -> None:
    due = sorted(check_seconds(f"uid-{number}") for number in range(600))
    assert due[0] >= CHECK_SECONDS
    assert due[-1] < 2 * CHECK_SECONDS
    assert all(sum(begin <= each < begin + 1 for each in due) < 8 for begin in due)


async def test_a_deleted_service_of_an_idle_endpoint_comes_back(world: World) -> None:
    await live(world)
    waited = await world.look()
    del world.client.cluster.objects["services", NAMESPACE, FRONT]
    assert isinstance(waited, RequeueAfter)
    world.clock.advance(waited.seconds)
    await world.look()
    assert ("services", NAMESPACE, FRONT) in world.client.cluster.objects


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


async def test_an_edit_is_not_judged_by_pods_that_are_being_deleted(world: World) -> None:
    await live(world)
    world.edit(serve={"maxAdapters": 8})
    await world.look()
    world.serve(reason="AnswersDiffer")
    await world.look()
    failed = world.status["refused"]["server"]
    pod = world.client.cluster.objects["pods", NAMESPACE, f"{failed}-1-x"]
    deleted = {**pod["metadata"], "deletionTimestamp": "2026-01-03T00:00:00Z"}
    world.put("pods", {**pod, "metadata": deleted})
    world.edit(rollout=ROLLOUT)
    for _ in range(2):
        await world.look()
        assert world.status["candidate"]["server"] == failed


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


async def test_a_conflict_over_the_status_creates_nothing(world: World) -> None:
    world.client.faults.append(Conflict("apply", status=409))
    assert isinstance(await world.look(), Retry)
    assert world.servers() == set()


def put_newest(world: World, version: int | str) -> Object:
    """Write the newest version into the stored status, also one that cannot be read."""
    found = copy.deepcopy(world.client.cluster.objects["finetuneendpoints", *KEY])
    found["status"]["newest"]["version"] = version
    world.put("finetuneendpoints", found)
    return found


async def test_a_status_that_cannot_be_read_is_told_and_nothing_else_of_it_changes(
    world: World,
) -> None:
    await live(world)
    broken = put_newest(world, "two")
    await world.look()
    assert world.condition("Stalled") == ("True", "InvalidStatus")
    kept = {name: value for name, value in world.status.items() if name != "conditions"}
    assert kept == {k: v for k, v in broken["status"].items() if k != "conditions"}
    assert world.condition("Available") == ("True", "Serving")
    assert "InvalidStatus" in [reason for reason, _ in world.recorder.events]
    # A status that somebody has mended wakes nobody.
    assert isinstance(await world.look(), RequeueAfter)
    assert world.client.writes == []
    put_newest(world, 1)
    await world.look()
    assert world.condition("Stalled") == ("False", "AsWanted")


async def test_a_condition_that_the_api_server_refuses_is_told_and_written_again(
    world: World,
) -> None:
    await live(world)
    put_newest(world, "two")
    world.client.faults.append(Invalid("patch", status=422))
    assert isinstance(await world.look(), Retry)
    assert "StatusRefused" in [reason for reason, _ in world.recorder.events]
    await world.look()
    assert world.condition("Stalled") == ("True", "InvalidStatus")


def aged(name: str, created: str) -> Object:
    """Return an endpoint with a time of creation."""
    found = endpoint(name)
    found["metadata"]["creationTimestamp"] = created
    return found


async def test_beyond_the_bound_a_newer_endpoint_waits_until_an_older_one_is_deleted(
    world: World,
) -> None:
    world.config = world.config.model_copy(update={"max_endpoints": 1})
    world.restart()
    world.put("finetuneendpoints", aged("older", "2026-01-01T00:00:00Z"))
    world.put("finetuneendpoints", aged(NAME, "2026-01-02T00:00:00Z"))
    result = await world.look()
    assert world.condition("Stalled") == ("True", "TooManyEndpoints")
    assert world.condition("Available") == ("False", "TooManyEndpoints")
    assert world.servers() == set()
    await world.reconciler.reconcile((NAMESPACE, "older"))
    front = world.client.cluster.objects["deployments", NAMESPACE, FRONT]
    assert [each["name"] for each in front["metadata"]["ownerReferences"]] == ["older"]
    older = world.endpoints.store.get(NAMESPACE, "older")
    assert older is not None
    world.endpoints.store.discard(older)
    assert isinstance(result, RequeueAfter)
    world.clock.advance(result.seconds)
    await world.look()
    assert world.status["candidate"]["version"] == 1
    assert world.condition("Available") == ("False", "Verifying")


async def test_a_deleted_endpoint_that_a_finalizer_keeps_counts_while_it_serves(
    world: World,
) -> None:
    await live(world)
    kept = aged("older", "2026-01-01T00:00:00Z")
    kept["metadata"]["deletionTimestamp"] = "2026-01-03T00:00:00Z"
    kept["status"] = copy.deepcopy(world.status)
    objects = world.client.cluster.objects
    del objects["finetuneendpoints", *KEY]
    world.config = world.config.model_copy(update={"max_endpoints": 1})
    world.restart()
    world.put("finetuneendpoints", kept)
    world.put("finetuneendpoints", aged("newer", "2026-01-02T00:00:00Z"))
    await world.reconciler.reconcile((NAMESPACE, "newer"))
    told = objects["finetuneendpoints", NAMESPACE, "newer"]["status"]
    assert told["reason"] == "TooManyEndpoints"


async def test_an_endpoint_that_serves_goes_on_where_the_bound_is_lowered(world: World) -> None:
    world.put("finetuneendpoints", aged("older", "2026-01-01T00:00:00Z"))
    world.put("finetuneendpoints", aged(NAME, "2026-01-02T00:00:00Z"))
    await live(world)
    world.config = world.config.model_copy(update={"max_endpoints": 1})
    world.restart()
    world.put("finetunejobs", published_job(2))
    await world.look()
    assert world.condition("Available") == ("True", "Serving")
    assert world.status["candidate"]["version"] == 2
    await world.reconciler.reconcile((NAMESPACE, "older"))
    front = world.client.cluster.objects["deployments", NAMESPACE, FRONT]
    owners = {each["name"] for each in front["metadata"]["ownerReferences"]}
    assert owners == {"older", NAME}


async def test_an_endpoint_that_lost_its_status_beyond_the_bound_serves_again(
    world: World,
) -> None:
    world.put("finetuneendpoints", aged("older", "2026-01-01T00:00:00Z"))
    world.put("finetuneendpoints", aged(NAME, "2026-01-02T00:00:00Z"))
    await live(world)
    servers = world.servers()
    world.config = world.config.model_copy(update={"max_endpoints": 1})
    world.restart()
    world.put("finetuneendpoints", aged(NAME, "2026-01-02T00:00:00Z"))
    assert "status" not in world.client.cluster.objects["finetuneendpoints", *KEY]
    await live(world)
    assert world.condition("Available") == ("True", "Serving")
    assert world.servers() == servers


async def test_a_deployment_of_a_user_gives_a_waiting_endpoint_no_place(world: World) -> None:
    world.put("finetuneendpoints", aged("older", "2026-01-01T00:00:00Z"))
    world.put("finetuneendpoints", aged(NAME, "2026-01-02T00:00:00Z"))
    await live(world)
    server = world.status["active"]["server"]
    forged = copy.deepcopy(world.client.cluster.objects["deployments", NAMESPACE, server])
    owner = {**forged["metadata"]["ownerReferences"][0], "name": "newest", "uid": "uid-of-newest"}
    forged["metadata"] |= {"name": "fts-forged", "uid": "forged", "ownerReferences": [owner]}
    world.config = world.config.model_copy(update={"max_endpoints": 2})
    world.restart()
    world.put("finetuneendpoints", aged("newest", "2026-01-03T00:00:00Z"))
    await world.reconciler.reconcile((NAMESPACE, "newest"))
    world.put("deployments", forged)
    await world.reconciler.reconcile((NAMESPACE, "newest"))
    told = world.client.cluster.objects["finetuneendpoints", NAMESPACE, "newest"]["status"]
    assert told["reason"] == "TooManyEndpoints"
    assert "candidate" not in told


async def test_a_waiting_endpoint_keeps_no_server_that_no_version_needs(world: World) -> None:
    world.put("finetuneendpoints", aged("older", "2026-01-01T00:00:00Z"))
    world.put("finetuneendpoints", aged(NAME, "2026-01-02T00:00:00Z"))
    await live(world)
    world.config = world.config.model_copy(update={"max_endpoints": 1})
    world.restart()
    world.put("finetuneendpoints", aged(NAME, "2026-01-02T00:00:00Z"))
    world.put("finetunejobs", published_job(None))
    await world.look()
    assert world.servers() == {FRONT}
    await world.look()
    assert world.condition("Stalled") == ("True", "TooManyEndpoints")


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
    adapter = world.status["active"]["adapter"]
    assert reports._names((NAMESPACE, server)) == {adapter, NAME, "other"}
    pod = next(each for each in world.endpoints.pods.objects() if each["deployment"] == server)
    engine = EngineReport(name="VLLM")
    before_record = ServerReport(id="boot", server=server, engine=engine)
    record = RecordReport(name=NAME, state="Failed", reason="AccessDenied")
    world.woken.clear()
    reports._on_news(pod, before_record, before_record.model_copy(update={"records": [record]}))
    assert world.woken == [KEY]
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


def put_moving(world: World, namespace: str, *, stalled: str = "", **told: Any) -> None:
    """Write an endpoint whose version moves to another server, or cannot for a reason."""
    other = endpoint("other")
    active = {**world.status["active"], "server": "fts-old"}
    other["status"] = {"active": active, "candidate": {**active, "server": "fts-new", **told}}
    if stalled:
        condition = {"type": "Stalled", "status": "True", "reason": stalled}
        other["status"]["conditions"] = [condition]
    other["metadata"] |= {"namespace": namespace, "uid": f"uid-in-{namespace}"}
    world.put("finetuneendpoints", other)


def put_refused(world: World, namespace: str, **told: Any) -> None:
    """Write an endpoint whose version has failed on another server."""
    put_moving(world, namespace)
    other = world.client.cluster.objects["finetuneendpoints", namespace, "other"]
    del other["status"]["candidate"]
    other["status"]["refused"] = {"server": "fts-new", "reason": "AnswersDiffer", **told}
    world.put("finetuneendpoints", other)


async def upgrade(world: World) -> None:
    """Start a process with another engine image."""
    world.config = world.config.model_copy(update={"vllm_image": "vllm:2"})
    world.restart()
    await world.look()


async def test_another_namespace_holds_up_an_upgrade_for_a_quarter_of_an_hour(
    world: World,
) -> None:
    await live(world)
    put_moving(world, "another-team")
    await upgrade(world)
    assert world.condition("Progressing") == ("True", "WaitsForTurn")
    world.clock.advance(MOVE_SECONDS - 30.0)
    await world.look()
    assert world.condition("Progressing") == ("True", "WaitsForTurn")
    world.clock.advance(30.0)
    await world.look()
    assert world.condition("Progressing") == ("True", "Moving")


async def test_a_refused_move_takes_no_turn_of_other_namespaces(world: World) -> None:
    await live(world)
    put_refused(world, "another-team")
    await upgrade(world)
    assert world.condition("Progressing") == ("True", "Moving")


async def test_a_refused_move_takes_a_turn_again_and_goes_on_to_count_as_failed(
    world: World,
) -> None:
    await live(world)
    for name in ("one", "two", "three"):
        put_refused(world, name)
    await upgrade(world)
    other = world.client.cluster.objects["finetuneendpoints", "one", "other"]
    retried = copy.deepcopy(other)
    retried["status"]["candidate"] = {**other["status"]["active"], "server": "fts-new"}
    world.reconciler._note_move(retried, retried["status"])
    move = world.reconciler._moves[retried["metadata"]["uid"]]
    assert move.until == world.clock.monotonic() + MOVE_SECONDS
    assert move.has_failed


async def test_moves_that_are_refused_in_three_namespaces_stop_others(world: World) -> None:
    await live(world)
    for name in ("one", "two", "three"):
        put_refused(world, name)
    await upgrade(world)
    assert world.condition("Progressing") == ("True", "WaitsForTurn")


@pytest.mark.parametrize("put", [put_refused, partial(put_moving, stalled="MoveStuck")])
async def test_edits_that_fail_stop_no_others_also_after_a_restart(world: World, put: Any) -> None:
    await live(world)
    for name in ("one", "two", "three"):
        put(world, name, isEdit=True)
    await upgrade(world)
    assert world.condition("Progressing") == ("True", "Moving")


async def test_a_refused_move_holds_up_no_other_server_of_its_namespace(world: World) -> None:
    await live(world)
    put_refused(world, NAMESPACE)
    await upgrade(world)
    assert world.condition("Progressing") == ("True", "Moving")


async def test_a_namespace_moves_one_server_at_a_time_however_long_it_takes(world: World) -> None:
    await live(world)
    put_moving(world, NAMESPACE)
    await upgrade(world)
    world.clock.advance(10 * MOVE_SECONDS)
    await world.look()
    assert world.condition("Progressing") == ("True", "WaitsForTurn")
    moved = endpoint("other")
    moved["status"] = {"active": {**world.status["active"], "server": "fts-new"}}
    world.put("finetuneendpoints", moved)
    await world.reconciler.reconcile((NAMESPACE, "other"))
    await world.look()
    assert world.condition("Progressing") == ("True", "Moving")


async def test_an_endpoint_that_is_deleted_holds_up_nobody(world: World) -> None:
    await live(world)
    put_moving(world, "another-team")
    await upgrade(world)
    gone = world.client.cluster.objects["finetuneendpoints", "another-team", "other"]
    world.reconciler.forget(gone)
    await world.look()
    assert world.condition("Progressing") == ("True", "Moving")


async def test_a_configuration_that_fails_in_three_namespaces_goes_no_further(
    world: World,
) -> None:
    await live(world)
    for name in ("one", "two", "three"):
        put_moving(world, name, stalled="MoveRefused")
    await upgrade(world)
    world.clock.advance(10 * MOVE_SECONDS)
    await world.look()
    assert world.condition("Progressing") == ("True", "WaitsForTurn")
    put_moving(world, "three")
    await world.reconciler.reconcile(("three", "other"))
    await world.look()
    assert world.condition("Progressing") == ("True", "Moving")
