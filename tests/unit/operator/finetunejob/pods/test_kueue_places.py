"""Places in Kueue's queues: read seldom, only where somebody waits, told to whom it concerns."""

from __future__ import annotations

import pytest

from finetune_operator.integrations.kueue.places import (
    ABSENT_SECONDS,
    MAX_QUEUES,
    REFRESH_SECONDS,
    Place,
    QueuePlaces,
    read_places,
)
from finetune_operator.kube.api.errors import Forbidden, NotFound, ServerUnavailable
from kit.processes.clock import FakeClock


def item(workload, place, in_queue=0):
    return {
        "metadata": {"name": workload},
        "positionInClusterQueue": place,
        "positionInLocalQueue": in_queue,
    }


class Visibility:
    """Stands in for the API client: answers by queue, and remembers what was asked."""

    def __init__(self):
        self.items = {}
        self.asked = []
        self.error = None
        self.versions = ("v1beta1", "v1beta2")

    async def get(self, resource, namespace, name, *, subresource="", query=None):
        self.asked.append((resource.version, namespace, name, subresource, query))
        if self.error is not None:
            raise self.error
        if resource.version not in self.versions:
            raise NotFound("get", status=404, message="404 page not found")
        if (namespace, name) not in self.items:
            raise NotFound("get", status=404, message="not found", details={"name": name})
        return {"items": self.items[namespace, name]}


@pytest.fixture
def world():
    server, clock = Visibility(), FakeClock()
    waiting, told = [], []
    places = QueuePlaces(server, waiting=lambda: waiting, on_change=told.append, clock=clock)
    return server, clock, waiting, told, places


def test_places_count_from_one_and_are_coarse_behind_the_front():
    found = read_places({"items": [item("a", 0), item("b", 9, 4), item("c", 10), item("d", 41)]})
    assert found == {
        "a": Place(in_cluster_queue=1, in_local_queue=1),
        "b": Place(in_cluster_queue=10, in_local_queue=5),
        "c": Place(in_cluster_queue=20, in_local_queue=1),
        "d": Place(in_cluster_queue=50, in_local_queue=1),
    }
    assert read_places({}) == {}


async def test_only_queues_in_which_somebody_waits_are_read_each_at_most_every_half_minute(world):
    server, clock, waiting, told, places = world
    server.items = {("a", "q"): [item("w", 2)], ("b", "q"): [item("x", 0)]}
    await places.refresh()
    assert server.asked == []
    waiting.append(("a", "q"))
    for _ in range(3):
        await places.refresh()
    assert server.asked == [("v1beta2", "a", "q", "pendingworkloads", {"limit": "100"})]
    assert places.of("a", "q", "w") == Place(in_cluster_queue=3, in_local_queue=1)
    clock.advance(REFRESH_SECONDS)
    await places.refresh()
    assert len(server.asked) == 2
    assert told == [("a", "w")], "an unchanged place wakes nobody"


async def test_who_moves_forward_or_leaves_the_line_is_woken(world):
    server, clock, waiting, told, places = world
    waiting.append(("a", "q"))
    server.items = {("a", "q"): [item("first", 0), item("second", 1), item("far", 14)]}
    await places.refresh()
    told.clear()
    server.items = {("a", "q"): [item("second", 0), item("far", 13)]}
    clock.advance(REFRESH_SECONDS)
    await places.refresh()
    assert sorted(told) == [("a", "first"), ("a", "second")]
    assert places.of("a", "q", "first") is None


async def test_a_queue_that_nobody_waits_in_is_forgotten(world):
    server, _, waiting, _, places = world
    waiting.append(("a", "q"))
    server.items = {("a", "q"): [item("w", 0)]}
    await places.refresh()
    waiting.clear()
    await places.refresh()
    assert places.of("a", "q", "w") is None


async def test_an_older_kueue_is_asked_in_its_version(world):
    server, clock, waiting, _, places = world
    server.versions = ("v1beta1",)
    server.items = {("a", "q"): [item("w", 0)]}
    waiting.append(("a", "q"))
    await places.refresh()
    assert places.of("a", "q", "w") is not None
    clock.advance(REFRESH_SECONDS)
    await places.refresh()
    assert [asked[0] for asked in server.asked] == ["v1beta2", "v1beta1", "v1beta1"]


@pytest.mark.parametrize(
    "error", [NotFound("get", status=404, message="404 page not found"), Forbidden("get")]
)
async def test_an_api_that_is_not_there_is_left_alone(world, error):
    server, clock, waiting, told, places = world
    waiting += [("a", "q"), ("b", "q")]
    server.error = error
    await places.refresh()
    asked = len(server.asked)
    assert {queue[1] for queue in server.asked} == {"a"}, "the other queue is not tried"
    clock.advance(REFRESH_SECONDS)
    await places.refresh()
    assert len(server.asked) == asked
    server.error, server.items = None, {("a", "q"): [item("w", 0)], ("b", "q"): []}
    clock.advance(ABSENT_SECONDS)
    await places.refresh()
    assert told == [("a", "w")]


async def test_a_kueue_that_starts_anew_leaves_the_old_places(world):
    server, clock, waiting, _, places = world
    waiting.append(("a", "q"))
    server.items = {("a", "q"): [item("w", 0)]}
    await places.refresh()
    server.error = ServerUnavailable("get", status=503)
    clock.advance(REFRESH_SECONDS)
    await places.refresh()
    assert places.of("a", "q", "w") == Place(in_cluster_queue=1, in_local_queue=1)


async def test_a_missing_queue_does_not_keep_the_others_from_being_read(world):
    server, _, waiting, _, places = world
    waiting += [("a", "gone"), ("b", "q")]
    server.items = {("b", "q"): [item("w", 0)]}
    await places.refresh()
    assert places.of("b", "q", "w") is not None


async def test_many_queues_are_read_in_turns(world):
    server, clock, waiting, _, places = world
    waiting += [(f"team-{number:03}", "q") for number in range(MAX_QUEUES + 5)]
    server.items = {key: [] for key in waiting}
    await places.refresh()
    assert len(server.asked) == MAX_QUEUES
    clock.advance(REFRESH_SECONDS)
    await places.refresh()
    assert {asked[1] for asked in server.asked} == {key[0] for key in waiting}
