"""Jobs of looks: created once, never instead of serving, and read only where they are ours."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from finetune_api.names import MONITOR_LABEL
from finetune_operator.kube.api.errors import Forbidden
from finetune_operator.kube.queue.workers import RequeueAfter
from finetune_operator.status.conditions import timestamp
from kit.builders.endpoints import NAME, NAMESPACE, endpoint, published_job
from kit.builders.reconciled import KEY, World, live

Object = dict[str, Any]


class LookWorld(World):
    """The caches have Jobs and pods of looks, too."""

    def _cache(self, plural: str, obj: Object) -> None:
        super()._cache(plural, obj)
        stores = {"jobs": self.endpoints.looks_informer.store,
                  "pods": self.endpoints.look_pods_informer.store}  # fmt: skip
        if plural in stores and MONITOR_LABEL in (obj["metadata"].get("labels") or {}):
            stores[plural].observe(None, copy.deepcopy(obj))

    def looks(self) -> list[str]:
        return [name for plural, _, name in self.client.cluster.objects if plural == "jobs"]

    async def until_look(self) -> None:
        before = len(self.looks())
        for _ in range(40):
            self.clock.advance(300)
            await self.look()
            if len(self.looks()) > before:
                return
        raise AssertionError("there is no further look")

    def end(self, name: str, report: Object) -> None:
        """Let a look succeed."""
        job = copy.deepcopy(self.client.cluster.objects["jobs", NAMESPACE, name])
        end = {"type": "Complete", "status": "True",
               "lastTransitionTime": timestamp(self.clock.now())}  # fmt: skip
        owner = {"kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
        self.put("pods", {
            "metadata": {"name": f"{name}-x", "namespace": NAMESPACE, "uid": "p",
                         "labels": {MONITOR_LABEL: NAME}, "ownerReferences": [owner]},
            "status": {"containerStatuses": [{"name": "trainer", "state": {"terminated":
                {"exitCode": 0, "message": json.dumps(report)}}}]},
        })  # fmt: skip
        self.put("jobs", {**job, "status": {"conditions": [end]}})


@pytest.fixture
async def world() -> LookWorld:
    found = LookWorld()
    found.put("finetunejobs", published_job(1))
    found.put("finetuneendpoints", endpoint(capture={}, monitor={"every": "1h"}))
    await live(found)
    return found


async def test_a_look_is_made_once_and_its_report_is_told(world: LookWorld) -> None:
    await world.until_look()
    (name,) = world.looks()
    world.restart()
    await world.look()
    assert world.looks() == [name]
    world.woken.clear()
    signal = {"name": "Vocabulary", "logE": "9", "since": "2026-01-01T00:00:00Z"}
    world.end(
        name, {"version": 1, "numLooks": 1, "numAnswers": 400, "numUsers": 200, "signals": [signal]}
    )
    assert KEY in world.woken
    await world.look()
    assert world.condition("Drifted") == ("True", "Vocabulary")
    assert "Drifted" in [reason for reason, _ in world.recorder.events]
    assert isinstance(await world.look(), RequeueAfter)
    assert world.client.writes == []


async def test_two_operators_make_one_look(world: LookWorld) -> None:
    await world.until_look()
    (name,) = world.looks()
    world.endpoints.looks_informer.store.discard(
        world.endpoints.looks_informer.store.get(NAMESPACE, name) or {}
    )
    await world.look()
    assert world.looks() == [name]
    assert world.endpoints.looks_informer.store.get(NAMESPACE, name) is not None


async def test_a_job_of_somebody_else_under_the_name_is_told_and_is_no_look(
    world: LookWorld,
) -> None:
    await world.until_look()
    (name,) = world.looks()
    job = world.client.cluster.objects["jobs", NAMESPACE, name]
    job["metadata"]["ownerReferences"][0]["uid"] = "another"
    world.put("jobs", job)
    await world.look()
    await world.look()
    assert world.condition("Drifted") == ("Unknown", "LookFailed")
    assert world.condition("Available") == ("True", "Serving")
    assert world.status["monitor"]["failure"].startswith("NameTaken")


async def test_a_quota_that_refuses_looks_stops_no_version(world: LookWorld) -> None:
    await world.until_look()
    (name,) = world.looks()
    world.end(name, {"version": 1})
    await world.look()
    world.clock.advance(3000)
    await world.look()  # it also checks the parts of the Deployments
    world.clock.advance(550)
    quota = Forbidden("create", status=403, message="exceeded quota")
    world.client.faults.append(quota)
    result = await world.look()
    assert isinstance(result, RequeueAfter)
    assert result.seconds < 10
    assert world.looks() == [name]
    world.client.faults.extend([None, quota])
    await world.look()
    assert world.looks() == [name]
    assert world.condition("Drifted") == ("Unknown", "LookFailed")
    assert world.condition("Available") == ("True", "Serving")
    assert world.condition("Stalled") == ("False", "AsWanted")
    world.client.faults.clear()
    world.clock.advance(120)
    await world.look()
    assert len(world.looks()) == 2
