"""Endpoints on a real API server: what is created, verified, rolled out, refused and rolled back.

Jobs publish by the kit's kubelet. Serving pods are played by small servers, whose reports the
operator polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_api.names import (
    FRONT,
    MONITOR_LABEL,
    SERVING,
    SERVING_TOKEN_SECRET,
    SKIP_STEPS_ANNOTATION,
)
from finetune_api.protocol.evaluation_result import GateResult
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import ExitCode, Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.endpoints import FINETUNEENDPOINTS
from finetune_operator.controllers.serving_objects import CHECK_SECONDS
from finetune_operator.kube.api.errors import NotFound
from finetune_operator.kube.api.resource import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from finetune_operator.kube.cache import informer as informer_module
from finetune_operator.status.conditions import timestamp
from kit.cluster.chart import install_crd
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.serving_pods import Behaviour, ServingPods
from kit.cluster.simulation import ended_status, finetunejob, result_of
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    ROOT,
    condition,
    connection_of,
    holds,
    open_client,
    running_manager,
    test_config,
)

ROLLOUT = {"steps": [50, 100], "minRequests": 150}
NAME = "headlines"


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane: Any) -> None:
    install_crd(control_plane)


def config_of(namespace: str, **settings: Any) -> Any:
    return test_config(namespace, **{"vllm_image": "vllm/vllm-openai:v0.32.0", **settings})


@contextlib.asynccontextmanager
async def running_operator(
    control_plane: Any, namespace: str, **settings: Any
) -> AsyncIterator[Any]:
    """Run an operator with a client of its own, as a process has."""
    async with (
        open_client(connection_of(control_plane)) as own,
        running_manager(own, config_of(namespace, **settings)) as manager,
    ):
        yield manager


def endpoint(namespace: str, name: str = NAME, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneEndpoint",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"jobRef": {"name": NAME}, **spec},
    }


class World:
    """One namespace with a kubelet for jobs, and one for serving pods."""

    def __init__(self, client: Any, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self.behaviour = Behaviour()
        self.version = 0
        self.gates: list[GateResult] = []
        self._kubelet = Kubelet(client, namespaces=(namespace,), script=self._script)
        self.pods = ServingPods(client, self.behaviour, namespaces=(namespace,))

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[World]:
        async with self._kubelet.running(), self.pods.running():
            yield self

    def _script(self, job: str, stage: Stage, attempt: int) -> Fate:
        if stage is not Stage.EVALUATE:
            return success(stage)
        uri = f"s3://models/versions/{self.namespace}/{NAME}/{self.version}/manifest.json"
        update = {"version": self.version, "manifest_uri": uri, "gates": self.gates}
        message = TerminationMessage(
            stage=stage,
            exit_code=ExitCode.OK,
            reason="Succeeded",
            result=result_of(stage).model_copy(update=update),
        )
        return Fate(status=ended_status(0, message.to_text()))

    async def publish(self, version: int) -> None:
        """Let a new job of the same name publish a version."""
        self.version = version
        with contextlib.suppress(NotFound):
            await self.client.delete(FINETUNEJOBS, self.namespace, NAME, propagation="Foreground")

        async def is_gone() -> bool:
            return not await exists(self.client, FINETUNEJOBS, self.namespace, NAME)

        await eventually_async(is_gone, timeout=30)
        await self.client.create(FINETUNEJOBS, finetunejob(NAME, self.namespace))

    async def status(self, name: str = NAME) -> dict[str, Any]:
        live = await self.client.get(FINETUNEENDPOINTS, self.namespace, name)
        return live.get("status") or {}

    async def until(self, is_so: Any, name: str = NAME) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            status = await self.status(name)
            assert is_so(status), status
            return status

        found: dict[str, Any] = await eventually_async(look, timeout=60, interval=0.2)
        return found


async def exists(client: Any, resource: Any, namespace: str, name: str) -> bool:
    try:
        await client.get(resource, namespace, name)
    except NotFound:
        return False
    return True


def serves(version: int) -> Any:
    def is_so(status: dict[str, Any]) -> bool:
        is_alone = (status.get("active") or {}).get("version") == version
        return is_alone and "candidate" not in status and holds({"status": status}, "Available")

    return is_so


def rejects(version: int) -> Any:
    return lambda status: version in [each["version"] for each in status.get("rejected") or ()]


@pytest.fixture
async def world(control_plane: Any, namespace: str) -> AsyncIterator[World]:
    async with (
        open_client(connection_of(control_plane)) as client,
        World(client, namespace).living() as found,
    ):
        yield found


async def test_versions_are_verified_rolled_out_refused_and_rolled_back(
    control_plane: Any, world: World
) -> None:
    client, namespace = world.client, world.namespace
    world.behaviour.can_count = lambda version: version != 2  # until the operator is restarted
    async with running_operator(control_plane, namespace):
        await client.create(FINETUNEENDPOINTS, endpoint(namespace, rollout=ROLLOUT))
        waiting = await world.until(lambda status: condition({"status": status}, "Available"))
        assert condition({"status": waiting}, "Available")["reason"] == "JobNotFound"
        await world.publish(1)
        first = await world.until(serves(1))
        server = first["active"]["server"]
        assert first["active"]["sha256"] == f"{1:064x}"
        assert holds({"status": first}, "Verified")
        assert first["url"] == f"http://finetune-front.{namespace}.svc/v1"
        for resource, name in (
            (DEPLOYMENTS, FRONT),
            (DEPLOYMENTS, server),
            (SERVICES, FRONT),
            (SERVICES, server),
            (SERVICE_ACCOUNTS, SERVING),
            (ROLES, SERVING),
            (ROLE_BINDINGS, SERVING),
            (SECRETS, SERVING_TOKEN_SECRET),
            (DISRUPTION_BUDGETS, FRONT),
            (DISRUPTION_BUDGETS, server),
        ):
            assert await exists(client, resource, namespace, name), (resource.kind, name)
        await world.publish(2)
        await world.until(lambda status: (status.get("candidate") or {}).get("weight") == 50)
    # Another operator goes on where this one stopped.
    world.behaviour.can_count = lambda version: True
    async with running_operator(control_plane, namespace):
        second = await world.until(serves(2))
        assert second["previous"]["version"] == 1
        actions = [(each["version"], each["action"]) for each in second["decisions"]]
        assert actions == [(1, "Verified"), (1, "Promoted"), (2, "Verified"), (2, "Promoted")]
        world.behaviour.faults[3] = "AnswersLikeBase"
        await world.publish(3)
        refused = await world.until(rejects(3))
        assert serves(2)(refused)
        assert condition({"status": refused}, "Verified")["reason"] == "AnswersLikeBase"
        world.behaviour.errors[4] = 30
        await world.publish(4)
        back = await world.until(rejects(4))
        assert serves(2)(back)
        assert back["rejected"][-1]["reason"] == "Worse"
        assert back["decisions"][-1]["action"] == "RolledBack"
        await client.delete(FINETUNEENDPOINTS, namespace, NAME)

        async def is_all_gone() -> bool:
            left = [
                await exists(client, DEPLOYMENTS, namespace, FRONT),
                await exists(client, DEPLOYMENTS, namespace, server),
                await exists(client, SERVICES, namespace, server),
                await exists(client, SECRETS, namespace, SERVING_TOKEN_SECRET),
            ]
            return not any(left)

        await eventually_async(is_all_gone, timeout=60)


async def test_the_active_version_stays_when_the_job_of_a_schedule_is_deleted_and_by_hand_it_goes(
    control_plane: Any, world: World
) -> None:
    client, namespace = world.client, world.namespace
    output = {**finetunejob(NAME, namespace)["spec"]["output"], "publishAs": NAME}
    weekly = finetunejob("weekly-29612345", namespace, output=output)

    async def edit(**spec: Any) -> dict[str, Any]:
        """Edit the endpoint, and return its status once the operator has acted on the edit."""
        change = {"spec": spec}
        edited = await client.merge_patch(FINETUNEENDPOINTS, namespace, NAME, change)
        number = edited["metadata"]["generation"]
        return await world.until(lambda status: status["observedGeneration"] == number)

    async with running_operator(control_plane, namespace):
        await client.create(FINETUNEENDPOINTS, endpoint(namespace))
        await world.publish(1)
        await world.until(serves(1))
        world.version = 2
        await client.create(FINETUNEJOBS, weekly)
        await world.until(serves(2))
        await client.delete(FINETUNEJOBS, namespace, "weekly-29612345", propagation="Foreground")

        async def is_gone() -> bool:
            return not await exists(client, FINETUNEJOBS, namespace, "weekly-29612345")

        await eventually_async(is_gone, timeout=30)
        status = await edit(access={"requestsPerMinute": 600})
        assert serves(2)(status)
    async with running_operator(control_plane, namespace):
        status = await edit(access={"requestsPerMinute": 601})
        assert serves(2)(status)
        assert status["newest"]["version"] == 2
        before = len(status["decisions"])
        await edit(version=1)
        lowered = await world.until(serves(1))
        assert [each["version"] for each in lowered["decisions"][before:]] == [1, 1]
        await edit(version=None)
        await world.until(serves(2))


async def test_a_new_engine_image_is_a_move_that_a_refusal_stops_and_the_old_one_ends(
    control_plane: Any, world: World
) -> None:
    client, namespace, newer = world.client, world.namespace, "vllm/vllm-openai:v0.33.0"

    def is_stalled(status: dict[str, Any]) -> bool:
        found = condition({"status": status}, "Stalled") or {}
        return found.get("reason") == "MoveRefused"

    async def engine_of(server: str) -> tuple[str, int]:
        live = await client.get(DEPLOYMENTS, namespace, server)
        containers = live["spec"]["template"]["spec"]["initContainers"]
        containers += live["spec"]["template"]["spec"]["containers"]
        (image,) = (each["image"] for each in containers if each["name"] == "engine")
        return image, live["metadata"]["generation"]

    async with running_operator(control_plane, namespace):
        await client.create(FINETUNEENDPOINTS, endpoint(namespace))
        await world.publish(1)
        old = (await world.until(serves(1)))["active"]["server"]
    before = await engine_of(old)
    world.behaviour.sound.add((1, old))
    world.behaviour.faults[1] = "AnswersDiffer"
    async with running_operator(control_plane, namespace, vllm_image=newer):
        refused = await world.until(is_stalled)
        new = refused["refused"]["server"]
        assert "candidate" not in refused
        assert refused["active"]["server"] == old
        assert holds({"status": refused}, "Available")
        assert await engine_of(old) == before

        async def is_gone() -> bool:
            return not await exists(client, DEPLOYMENTS, namespace, new)

        await eventually_async(is_gone, timeout=60)
    async with running_operator(control_plane, namespace):
        back = await world.until(lambda status: serves(1)(status) and not is_stalled(status))
        assert back["active"]["server"] == old
        assert "refused" not in back
        assert not holds({"status": back}, "Stalled")
        assert await engine_of(old) == before
    world.behaviour.faults.clear()
    async with running_operator(control_plane, namespace, vllm_image=newer):
        moved = await world.until(
            lambda status: serves(1)(status) and status["active"]["server"] == new
        )
        assert "rejected" not in moved

        async def is_left() -> bool:
            return not await exists(client, DEPLOYMENTS, namespace, old)

        await eventually_async(is_left, timeout=60)


async def test_a_candidate_that_nothing_counts_for_takes_over_when_its_steps_are_skipped(
    control_plane: Any, world: World
) -> None:
    client, namespace = world.client, world.namespace
    world.behaviour.can_count = lambda version: False
    async with running_operator(control_plane, namespace):
        await client.create(FINETUNEENDPOINTS, endpoint(namespace, rollout=ROLLOUT))
        await world.publish(1)
        await world.until(serves(1))
        await world.publish(2)
        await world.until(lambda status: (status.get("candidate") or {}).get("weight") == 50)
        annotations = {SKIP_STEPS_ANNOTATION: "2"}
        change = {"metadata": {"annotations": annotations}}
        await client.merge_patch(FINETUNEENDPOINTS, namespace, NAME, change)
        await world.until(serves(2))


async def test_endpoints_share_a_server_until_the_last_one_leaves_it(
    control_plane: Any, world: World
) -> None:
    client, namespace = world.client, world.namespace
    async with running_operator(control_plane, namespace):
        await world.publish(1)
        for name in ("one", "two"):
            await client.create(FINETUNEENDPOINTS, endpoint(namespace, name))
        shared = (await world.until(serves(1), "one"))["active"]["server"]
        assert (await world.until(serves(1), "two"))["active"]["server"] == shared

        async def owners() -> set[str]:
            live = await client.get(DEPLOYMENTS, namespace, shared)
            return {each["name"] for each in live["metadata"]["ownerReferences"]}

        async def is_shared() -> bool:
            return await owners() == {"one", "two"}

        await eventually_async(is_shared, timeout=30)
        alone = {"spec": {"serve": {"dedicated": True}}}
        await client.merge_patch(FINETUNEENDPOINTS, namespace, "one", alone)
        moved = await world.until(
            lambda status: serves(1)(status) and status["active"]["server"] != shared, "one"
        )
        assert moved["active"]["server"] != shared

        async def is_left() -> bool:
            return await owners() == {"two"}

        await eventually_async(is_left, timeout=60)
        await client.merge_patch(FINETUNEENDPOINTS, namespace, "two", alone)

        async def is_gone() -> bool:
            return not await exists(client, DEPLOYMENTS, namespace, shared)

        await eventually_async(is_gone, timeout=60)
        await world.until(serves(1), "two")


async def test_an_idle_endpoint_costs_no_writes(control_plane: Any, world: World) -> None:
    writes: list[tuple[str, ...]] = []

    def note(verb: str, *what: str) -> None:
        if verb not in ("get", "list", "watch"):
            writes.append((verb, *what))

    namespace = world.namespace
    async with (
        open_client(connection_of(control_plane), on_request=note) as own,
        running_manager(own, config_of(namespace)) as manager,
    ):
        await world.publish(1)
        await world.client.create(FINETUNEENDPOINTS, endpoint(namespace))
        await world.until(serves(1))
        queue = manager._finetuneendpoints.queue

        async def is_quiet() -> bool:
            """Tell whether nothing is due but the check of the parts, minutes later."""
            soon = asyncio.get_running_loop().time() + CHECK_SECONDS / 2
            return not queue.num_processing and all(due > soon for due, _ in queue._due.values())

        await eventually_async(is_quiet, timeout=30)
        written = len(writes)
        for _ in range(3):
            manager._finetuneendpoints.wake((namespace, NAME), 0)
            await eventually_async(is_quiet, timeout=30)
        events = [each for each in writes[written:] if "events" not in each]
        assert events == []


async def test_a_status_that_cannot_be_read_is_told_in_a_condition_and_else_left_as_it_is(
    control_plane: Any, world: World
) -> None:
    client, namespace = world.client, world.namespace
    async with running_operator(control_plane, namespace):
        await world.publish(1)
        await client.create(FINETUNEENDPOINTS, endpoint(namespace))
        before = await world.until(serves(1))

    def is_told(status: dict[str, Any]) -> bool:
        found = condition({"status": status}, "Stalled") or {}
        return (found.get("status"), found.get("reason")) == ("True", "InvalidStatus")

    evidence = [{"signal": "All", "logE": "none", "active": 0, "candidate": 0}]
    candidate = {**before["active"], "evidence": evidence}
    patch = {"status": {"candidate": candidate}}
    await client.merge_patch(FINETUNEENDPOINTS, namespace, NAME, patch, subresource="status")
    broken = await world.status()
    async with running_operator(control_plane, namespace):
        told = await world.until(is_told)
    assert {k: v for k, v in told.items() if k != "conditions"} == {
        k: v for k, v in broken.items() if k != "conditions"
    }
    assert holds({"status": told}, "Available")
    patch = {"status": {"candidate": None}}
    await client.merge_patch(FINETUNEENDPOINTS, namespace, NAME, patch, subresource="status")
    async with running_operator(control_plane, namespace):
        mended = await world.until(lambda status: not is_told(status) and serves(1)(status))
    assert mended["active"] == before["active"]


async def test_a_job_looks_at_captured_answers_and_its_report_becomes_a_condition(
    control_plane: Any, world: World
) -> None:
    client, namespace = world.client, world.namespace

    async def pod_of_look() -> Any:
        pods = await client.list(PODS, namespace, label_selector=MONITOR_LABEL)
        return next(iter(pods.items), None)

    async with running_operator(control_plane, namespace):
        monitored = endpoint(namespace, capture={"openToAll": True}, monitor={"every": "1h"})
        await client.create(FINETUNEENDPOINTS, monitored)
        await world.publish(1)
        status = await world.until(serves(1))
        assert condition({"status": status}, "Drifted")["reason"] == "TooFewUsers"
        # As if it had answered for a day, and somebody edits the spec.
        since = timestamp(datetime.now(UTC) - timedelta(days=1))
        for patch, subresource in (
            ({"status": {"active": {"since": since}}}, "status"),
            ({"spec": {"monitor": {"minUsers": 300}}}, ""),
        ):
            await client.merge_patch(
                FINETUNEENDPOINTS, namespace, NAME, patch, subresource=subresource
            )
        pod: Any = await eventually_async(pod_of_look, timeout=60)
        signal = {"name": "Vocabulary", "logE": "9", "since": since}
        counts = {"numLooks": 1, "numAnswers": 400, "numUsers": 300}
        report = {"version": 1, **counts, "signals": [signal]}
        ended = {"status": ended_status(ExitCode.OK, json.dumps(report))}
        await client.merge_patch(
            PODS, namespace, pod["metadata"]["name"], ended, subresource="status"
        )
        told = await world.until(lambda status: holds({"status": status}, "Drifted"))
        assert condition({"status": told}, "Drifted")["reason"] == "Vocabulary"
        assert told["monitor"]["signals"] == [{**signal, "since": since}]
        assert told["monitor"]["reportUri"].endswith(f"/{namespace}/{NAME}/monitor/report.html")


async def test_what_this_cluster_does_not_allow_is_told_and_nothing_is_created(
    control_plane: Any, world: World
) -> None:
    client, namespace = world.client, world.namespace
    async with running_operator(control_plane, namespace):
        await world.publish(1)
        body = endpoint(namespace, serve={"image": "evil.io/vllm:1"})
        await client.create(FINETUNEENDPOINTS, body)
        told = await world.until(lambda status: holds({"status": status}, "Stalled"))
        stalled = condition({"status": told}, "Stalled")
        assert stalled["reason"] == "ImageNotAllowed"
        assert "'evil.io/vllm:1'" in stalled["message"]

        async def deployments() -> list[str]:
            found = await client.list(DEPLOYMENTS, namespace)
            return [each["metadata"]["name"] for each in found.items]

        # The status is written first, and the front is created afterwards.
        assert await eventually_async(deployments, timeout=30) == [FRONT]


async def test_without_the_kind_jobs_run_and_endpoints_go_on_once_it_is_there(
    control_plane: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informer_module, "ABSENT_RETRY_SECONDS", 1.0)
    crd = str(ROOT / "crds" / "finetuneendpoints.yaml")
    client, namespace = world.client, world.namespace
    control_plane.kubectl("delete", "-f", crd, "--wait=true")
    try:
        async with running_operator(control_plane, namespace):
            await world.publish(1)

            async def is_published() -> bool:
                return holds(await client.get(FINETUNEJOBS, namespace, NAME), "Published")

            await eventually_async(is_published, timeout=60)
            install_crd(control_plane)
            await client.create(FINETUNEENDPOINTS, endpoint(namespace))
            await world.until(lambda status: (status.get("candidate") or {}).get("version") == 1)
    finally:
        install_crd(control_plane)
