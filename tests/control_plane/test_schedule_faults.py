"""Schedules on a real API server: a dead operator, a wrong clock, a quota, and two at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from control_plane.test_endpoints import NAME, World, endpoint, running_operator, serves
from finetune_api.protocol.evaluation_result import GateResult
from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.endpoints import FINETUNEENDPOINTS
from finetune_operator.controllers.memory.schedules import FINETUNESCHEDULES
from finetune_operator.kube.api.resource import Resource
from finetune_operator.status.conditions import timestamp
from kit.builders.schedules import GATE
from kit.cases.schedule_cases import minimal_schedule
from kit.cluster.chart import install_crd
from kit.cluster.kubelet import Fate, Kubelet
from kit.cluster.simulation import finetunejob
from kit.processes import moved_clock
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    OperatorProcess,
    condition,
    connection_of,
    holds,
    open_client,
)

RESOURCE_QUOTAS = Resource(group="", version="v1", plural="resourcequotas", kind="ResourceQuota")
DAILY = "0 3 * * *"
DAY = timedelta(days=1)


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane: Any) -> None:
    install_crd(control_plane)


class Scheduled:
    """Schedules of a namespace, and their jobs."""

    def __init__(self, client: Any, namespace: str) -> None:
        self.client = client
        self.namespace = namespace

    async def create(self, name: str, **spec: Any) -> None:
        body = minimal_schedule(name)
        body["metadata"]["namespace"] = self.namespace
        template = {"spec": finetunejob("any", self.namespace)["spec"]}
        body["spec"] = {
            "jobTemplate": template, "triggers": {"cron": DAILY}, "promote": "Auto", **spec
        }  # fmt: skip
        await self.client.create(FINETUNESCHEDULES, body)

    async def patch(self, name: str, body: dict[str, Any], subresource: str = "") -> None:
        await self.client.merge_patch(
            FINETUNESCHEDULES, self.namespace, name, body, subresource=subresource
        )

    async def ask(self, name: str, value: str = "now") -> None:
        """Ask for a cycle, as ``finetune schedule trigger`` does."""
        await self.patch(name, {"metadata": {"annotations": {"finetune.dev/trigger": value}}})

    async def status(self, name: str) -> dict[str, Any]:
        found = await self.client.get(FINETUNESCHEDULES, self.namespace, name)
        return found.get("status") or {}

    async def until(self, name: str, is_so: Any) -> dict[str, Any]:
        async def look() -> dict[str, Any]:
            status = await self.status(name)
            assert is_so(status), status
            return status

        found: dict[str, Any] = await eventually_async(look, timeout=90, interval=0.2)
        return found

    async def jobs(self) -> list[str]:
        found = (await self.client.list(FINETUNEJOBS, self.namespace)).items
        return [job["metadata"]["name"] for job in found if job["metadata"].get("ownerReferences")]


@pytest.fixture
async def scheduled(control_plane: Any, namespace: str) -> AsyncIterator[Scheduled]:
    async with open_client(connection_of(control_plane)) as client:
        yield Scheduled(client, namespace)


@contextlib.contextmanager
def operator(
    control_plane: Any, namespace: str, folder: Path, *, offset: timedelta | None = None
) -> Any:
    """Run an operator as users run it, with a clock that is off by ``offset``."""
    preload = {}
    if offset is not None:
        folder.mkdir()
        (folder / "offset").write_text(str(int(offset.total_seconds())))
        library = moved_clock.build(folder)
        preload = moved_clock.environment(library, folder / "offset")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in preload.items():
            patch.setenv(name, value)
        process = OperatorProcess(
            control_plane, folder, namespaces=[namespace], leaderElection=False
        )
    try:
        yield process
    finally:
        process.signal(signal.SIGKILL)
        process.process.wait()


def is_waiting(status: dict[str, Any]) -> bool:
    return (condition({"status": status}, "Ready") or {}).get("reason") == "WaitingForTrigger"


def has_ended(status: dict[str, Any]) -> bool:
    return bool(status.get("history")) and "active" not in status


@pytest.mark.skipif(moved_clock.unfit() is not None, reason=str(moved_clock.unfit()))
@pytest.mark.parametrize(
    "offset", [timedelta(hours=25), -timedelta(minutes=30)], ids=["ahead", "back"]
)
async def test_an_operator_that_was_dead_over_three_times_begins_one_cycle_whatever_its_clock_says(
    control_plane: Any, scheduled: Scheduled, tmp_path: Path, offset: timedelta
) -> None:
    namespace = scheduled.namespace
    # By an operator's own clock the last time would be that of another day.
    last = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=10)
    with operator(control_plane, namespace, tmp_path / "first", offset=offset):
        await scheduled.create("daily", triggers={"cron": f"{last.minute} {last.hour} * * *"})
        await scheduled.until("daily", is_waiting)
    # What it would have left, had it died three days ago.
    dead_since = {"status": {"lastScheduleTime": timestamp(last - 3 * DAY)}}
    await scheduled.patch("daily", dead_since, "status")
    kubelet = Kubelet(scheduled.client, namespaces=(namespace,))
    async with kubelet.running():
        for number in range(2):
            with operator(control_plane, namespace, tmp_path / f"{number}", offset=offset):
                ended = await scheduled.until("daily", has_ended)
                assert await scheduled.jobs() == [f"daily-{int(last.timestamp()) // 60}"]
                await scheduled.until("daily", is_waiting)
    assert [each["trigger"] for each in ended["history"]] == ["Cron"]
    assert ended["lastScheduleTime"] == timestamp(last)
    assert ended["nextTriggerTime"] == timestamp(last + DAY)


async def test_a_job_that_a_quota_refuses_is_told_and_created_once_when_there_is_room(
    control_plane: Any, scheduled: Scheduled, tmp_path: Path
) -> None:
    client, namespace = scheduled.client, scheduled.namespace
    quota = {"count/finetunejobs.finetune.dev": "0"}
    body = {"metadata": {"name": "none", "namespace": namespace}, "spec": {"hard": quota}}
    await client.create(RESOURCE_QUOTAS, {"apiVersion": "v1", "kind": "ResourceQuota", **body})

    async def is_counted() -> bool:
        found = await client.get(RESOURCE_QUOTAS, namespace, "none")
        return bool((found.get("status") or {}).get("hard"))

    await eventually_async(is_counted, timeout=60)
    await scheduled.create("daily")
    with operator(control_plane, namespace, tmp_path / "first"):
        await scheduled.until("daily", is_waiting)
        await scheduled.ask("daily")
        told = await scheduled.until("daily", lambda status: holds({"status": status}, "Stalled"))
    ready = condition({"status": told}, "Ready")
    assert ready is not None
    assert ready["reason"] == "Forbidden"
    assert "quota: none" in ready["message"]
    assert await scheduled.jobs() == []
    await client.delete(RESOURCE_QUOTAS, namespace, "none")
    kubelet = Kubelet(client, namespaces=(namespace,))
    async with kubelet.running():
        with operator(control_plane, namespace, tmp_path / "second"):
            ended = await scheduled.until("daily", has_ended)
    assert await scheduled.jobs() == [told["active"]["job"]] == [ended["history"][0]["job"]]
    assert len(ended["history"]) == 1


class TwoSchedules(World):
    """Each job of a schedule publishes the next version."""

    def __init__(self, client: Any, namespace: str) -> None:
        super().__init__(client, namespace)
        self.versions: dict[str, int] = {NAME: 1}
        self.gates = [GateResult(name=GATE["name"], met=True)]

    def _script(self, job: str, stage: Stage, attempt: int) -> Fate:
        if stage is Stage.EVALUATE:  # the first to end its training is the next version
            self.version = self.versions.setdefault(job, len(self.versions) + 1)
        return super()._script(job, stage, attempt)


async def test_two_schedules_of_an_endpoint_train_once_each_and_the_last_version_answers(
    control_plane: Any, scheduled: Scheduled
) -> None:
    client, namespace = scheduled.client, scheduled.namespace
    world = TwoSchedules(client, namespace)
    async with world.living(), running_operator(control_plane, namespace):
        rollout = {"steps": [50, 100], "minRequests": 150}
        await client.create(FINETUNEENDPOINTS, endpoint(namespace, rollout=rollout))
        await world.publish(1)
        await world.until(serves(1))
        spec = finetunejob("any", namespace)["spec"] | {"evaluation": {"gates": [GATE]}}
        for name in ("one", "two"):
            await scheduled.create(name, endpointRef={"name": NAME}, jobTemplate={"spec": spec})
        for name in ("one", "two"):
            await scheduled.ask(name)
        ended = [await scheduled.until(name, has_ended) for name in ("one", "two")]
        last = await world.until(serves(3))
        for name in ("one", "two"):
            await scheduled.until(name, is_waiting)
    jobs = await scheduled.jobs()
    assert sorted(jobs) == sorted(status["history"][0]["job"] for status in ended)
    assert len(set(jobs)) == 2
    outcomes = {
        status["history"][0]["version"]: status["history"][0]["outcome"] for status in ended
    }
    assert outcomes.keys() == {2, 3}
    assert outcomes[3] == "Promoted"
    assert outcomes[2] in ("Promoted", "Superseded")
    assert not last.get("rejected")
    promoted = [each["version"] for each in last["decisions"] if each["action"] == "Promoted"]
    assert sorted(set(promoted)) == sorted(promoted)
