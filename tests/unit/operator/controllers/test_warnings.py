"""Why pods do not start: which Event counts, and how seldom Events are read."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.warnings import LOOK_UP_BURST, PodWarnings
from finetune_operator.finetunejob.state.actions import LookUpWarnings
from finetune_operator.finetunejob.state.observed import WarningEvent
from finetune_operator.kube.api.errors import Forbidden, ServerUnavailable
from finetune_operator.status.conditions import timestamp
from kit.builders.jobs import NOW, at, child, job, observe
from kit.processes.clock import FakeClock


def event(seconds, reason, message="", kind="Normal"):
    return {
        "type": kind,
        "reason": reason,
        "message": message,
        "lastTimestamp": timestamp(at(seconds)),
    }


def warning(seconds, message, reason="FailedMount"):
    return event(seconds, reason, message, "Warning")


class Events:
    """A client that lists one pod's Events."""

    def __init__(self, items):
        self.items = items

    async def list(self, resource, namespace, *, field_selector, limit):
        assert field_selector == "involvedObject.kind=Pod,involvedObject.name=p"
        return self


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], None),
        ([warning(190, "no secret")], "no secret"),
        ([warning(190, "later"), warning(185, "earlier")], "later"),
        ([warning(190, "no secret"), event(100, "Pulling")], "no secret"),
        ([warning(190, "no nodes", "FailedScheduling")], None),
        ([warning(190, "too many nameservers", "DNSConfigForming"), warning(189, "no secret")],
         "no secret"),
        ([warning(190, "no pull secret", "FailedToRetrieveImagePullSecret")], None),
        ([event(150, "Pulling"), warning(190, "probe failed", "Unhealthy")], None),
        ([warning(190, "no address", "FailedCreatePodSandBox")],
         ("FailedCreatePodSandBox", "no address")),
        ([warning(190, "no secret"), warning(195, "no address", "FailedCreatePodSandBox")],
         ("FailedCreatePodSandBox", "no address")),
        ([warning(190, "no secret"), warning(195, "not ready", "NodeNotReady")], "no secret"),
        ([warning(190, "a"), warning(192, "b"), warning(195, "not ready", "NodeNotReady")], "b"),
        ([warning(190, "no address", "FailedCreatePodSandBox"), warning(195, "no secret")],
         "no secret"),
        ([warning(10, "not mounted yet")], None),
        ([warning(190, "not mounted yet"), event(191, "Pulling")], None),
        ([event(190, "Pulling"), warning(190, "not mounted yet")], None),
        ([event(195, "Scheduled"), warning(190, "no secret")], "no secret"),
    ],
    ids=[
        "none", "present", "latest", "after an earlier container", "the scheduler's",
        "in spite of which pods start", "in spite of which images are pulled",
        "of a container beside the stage's", "of the network",
        "of the network, once it is mounted", "of the node, while it is not mounted",
        "the latest of those", "not mounted any more", "stale",
        "mounted since", "mounted in the same second", "another normal event",
    ],
)  # fmt: skip
async def test_a_warning_counts_while_it_lasts(events, expected):
    warnings = PodWarnings(Events(events), clock=FakeClock(NOW))
    action = LookUpWarnings(kind="Pod", names=("p",), since=at(20))
    if isinstance(expected, str):
        expected = ("FailedMount", expected)
    answer = WarningEvent(*expected) if expected else None
    assert await warnings.look_up(observe(job()), action) == {"p": answer}


NO_SECRET = WarningEvent("FailedMount", "no secret")


class Lists:
    """A client that counts the look-ups of each pod, and how many were under way at once."""

    def __init__(self, message="", error=None):
        self.counts = Counter()
        self.message, self.error = message, error
        self.num_open = self.most_open = 0

    async def list(self, resource, namespace, *, field_selector, limit):
        self.counts[field_selector.rpartition("=")[2]] += 1
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        await asyncio.sleep(0)
        self.num_open -= 1
        if self.error is not None:
            raise self.error
        self.items = [warning(190, self.message)] if self.message else []
        return self


class World:
    """A job with pods that wait, reconciled again and again."""

    def __init__(self, client, *, num_pods=1):
        self.clock, self.client = FakeClock(NOW), client
        self.warnings = PodWarnings(client, clock=self.clock)
        self.names = tuple(f"pod-{number}" for number in range(num_pods))
        self.reason, self.attempt = "ContainerCreating", 1

    async def look(self):
        pods = tuple(
            {
                "metadata": {"name": name, "uid": f"{name}-{self.attempt}"},
                "status": {
                    "phase": "Pending",
                    "container": {"waiting": {"reason": self.reason}},
                },
            }
            for name in self.names
        )
        observed = observe(job(), pods={Stage.TRAIN: pods})
        action = LookUpWarnings(kind="Pod", names=self.names, since=at(20))
        return await self.warnings.look_up(observed, action)

    async def look_every_second(self, seconds):
        for _ in range(seconds):
            await self.look()
            self.clock.advance(1)
        return sum(self.client.counts.values())


async def test_of_a_huge_event_the_beginning_is_remembered():
    huge = warning(190, f"no secret {'x' * 1_400_000}", reason="A" * 1_400_000)
    warnings = PodWarnings(Events([huge]), clock=FakeClock(NOW))
    action = LookUpWarnings(kind="Pod", names=("p",), since=at(20))
    found = (await warnings.look_up(observe(job()), action))["p"]
    assert found.message.startswith("no secret ")
    assert len(found.message) + len(found.reason) < 2048


async def test_a_pod_that_pulls_for_ten_minutes_is_looked_up_seven_times():
    assert await World(Lists()).look_every_second(600) == 7


async def test_a_warning_that_lasts_is_read_anew_at_each_recheck():
    world = World(Lists("no secret"))
    assert await world.look() == {"pod-0": NO_SECRET}
    assert await world.look_every_second(100) == 4
    world.client.message = ""
    world.clock.advance(30)
    assert await world.look() == {"pod-0": None}


@pytest.mark.parametrize(("field", "value"), [("reason", "CrashLoopBackOff"), ("attempt", 2)])
async def test_another_reason_or_another_pod_of_that_name_is_another_question(field, value):
    world = World(Lists())
    await world.look()
    setattr(world, field, value)
    await world.look()
    await world.look()
    assert world.client.counts == {"pod-0": 2}


async def test_pods_are_looked_up_side_by_side():
    world = World(Lists("no secret"), num_pods=16)
    assert await world.look() == dict.fromkeys(world.names, NO_SECRET)
    assert world.client.most_open == 16


async def test_many_pods_share_a_rate_and_the_rest_is_not_waited_for():
    world = World(Lists("no secret"), num_pods=200)
    found = await world.look()
    assert sum(world.client.counts.values()) == LOOK_UP_BURST
    assert list(found.values()).count(NO_SECRET) == LOOK_UP_BURST
    await world.look_every_second(60)
    assert await world.look() == dict.fromkeys(world.names, NO_SECRET)


@pytest.mark.parametrize(
    "error", [Forbidden("list", status=403), ServerUnavailable("list", status=500)]
)
async def test_events_that_cannot_be_read_hold_up_nothing(error):
    assert await World(Lists(error=error)).look() == {"pod-0": None}


QUOTA = 'Error creating: pods "headlines-train-0-x7k2d" is forbidden: exceeded quota: gpus'


class JobEvents(Events):
    """A client that lists one Job's Events."""

    async def list(self, resource, namespace, *, field_selector, limit):
        assert field_selector == "involvedObject.kind=Job,involvedObject.name=headlines-train"
        return self


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([warning(190, QUOTA, "FailedCreate")], QUOTA),
        ([warning(190, QUOTA, "FailedCreate"), event(100, "SuccessfulCreate")], QUOTA),
        ([warning(190, QUOTA, "FailedCreate"), event(195, "SuccessfulCreate")], None),
        ([warning(190, QUOTA, "FailedCreate"), event(195, "Resumed")], None),
        ([warning(190, "too many failures", "BackoffLimitExceeded")], None),
        ([warning(10, QUOTA, "FailedCreate")], None),
    ],
    ids=["refused", "refused after others", "created since", "resumed since", "other", "stale"],
)
async def test_a_refused_pod_counts_until_one_is_created(events, expected):
    warnings = PodWarnings(JobEvents(events), clock=FakeClock(NOW))
    action = LookUpWarnings(kind="Job", names=("headlines-train",), since=at(20))
    observed = observe(job(), jobs={Stage.TRAIN: child(Stage.TRAIN)})
    answer = WarningEvent("FailedCreate", expected) if expected else None
    assert await warnings.look_up(observed, action) == {"headlines-train": answer}


async def test_a_job_and_its_pods_are_remembered_side_by_side():
    world = World(Lists("no secret"))
    action = LookUpWarnings(kind="Job", names=("headlines-train",), since=at(20))
    for _ in range(3):
        await world.look()
        await world.warnings.look_up(observe(job()), action)
    assert world.client.counts == {"pod-0": 1, "headlines-train": 1}
