"""Faults of endpoints: what an operator tells of them, and what a real front does.

Serving pods of the operator's endpoints are played. The front that fails and is slow is a process
of its own, before an engine without a model. Beside it runs a recorder whose bucket is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from benchmarks.alert_faults.replica import INTERVAL_SECONDS, Replica, end, scraped
from benchmarks.alert_faults.samples import Samples
from benchmarks.alert_faults.world import PATIENCE_SECONDS, Seen, World

from finetune_api.names import MONITOR_LABEL, SERVER_LABEL
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.endpoints import FINETUNEENDPOINTS
from finetune_operator.kube.api.resource import PODS
from finetune_trainer.serve.handover import SOCKET
from kit.cluster.serving_pods import Behaviour, ServingPods
from kit.cluster.simulation import ended_status, finetunejob
from kit.processes.eventually import eventually_async
from kit.servers.ports import free_port
from kit.servers.running_front import TOKEN, endpoint, served
from kit.servers.streaming_engine import StreamingEngine, answer, fail, streaming_engine

Body = dict[str, Any]

SERVING, FRONT = "alerts-serving", "alerts-front"
AWAY, REFUSED, WORSE, HELD = "away", "refused", "worse", "held"
DRIFTED, BELOW = "drifted", "below"
MOVED, SPLIT, SHORT = "moved", "split", "short"
OPEN = {"openToAll": True}
LIKE_BASE, FAILING = 2, 3
"""Versions that are refused, and that fail at half of their requests."""
ROLLOUT = {"steps": [50, 100], "minRequests": 150}
JOB = "finetune-system/finetune-operator-serving"
SLOW_SECONDS, LATE_SECONDS = 1.0, 1.5
PAUSE_SECONDS = 0.05
"""Between two requests to the front."""
QUALITY = {"low": "0.7", "estimate": "0.78", "high": "0.85", "goal": "0.9", "numPeople": 90}
"""What people say of an endpoint whose answers are not good enough."""


async def troubled_endpoints(world: World) -> list[Seen]:
    """Nine endpoints in trouble, no scrape of their pods, and a front whose engine fails.

    The recorder of that front cannot store anything.
    """
    told, front = await asyncio.gather(_troubled_operator(world), _troubled_front(world))
    return [*told, *front]


async def _troubled_operator(world: World) -> list[Seen]:
    world.make_namespaces(SERVING)
    behaviour = Behaviour(faults={LIKE_BASE: "AnswersLikeBase"}, errors={FAILING: 50})
    pods = ServingPods(world.client, behaviour, namespaces=(SERVING,))
    specs: dict[str, Body] = {
        AWAY: {"serve": {"dedicated": True}},
        REFUSED: {},
        WORSE: {"rollout": ROLLOUT},
        HELD: {"rollout": {**ROLLOUT, "onWorse": "Hold"}},
        DRIFTED: {"capture": OPEN, "monitor": {"every": "10m"}},
        BELOW: {"capture": OPEN, "monitor": {"every": "10m", "quality": {"atLeast": "0.9"}}},
        MOVED: {"serve": {"dedicated": True}},
        SPLIT: {"serve": {"dedicated": True, "replicas": {"min": 2, "max": 2}}},
        SHORT: {"serve": {"dedicated": True, "replicas": {"min": 2, "max": 2}}},
    }
    settings = {"namespaces": [SERVING], "vllmImage": "vllm/vllm-openai:v0.32.0"}
    async with world.replica("serving", **settings) as replica, pods.running():
        replica.note("FineTuneServingNotScraped")
        for name, spec in specs.items():
            await _serve(world, name, spec)
        for name in specs:
            await _until_available(world, name)
        await replica.reach(replica.minute + 2)
        replica.note(
            "FineTuneEndpointNotAvailable",
            "FineTuneEndpointVersionRefused",
            "FineTuneEndpointRolledBack",
            "FineTuneEndpointStalled",
            "FineTuneEndpointDrifted",
            "FineTuneEndpointBelowGoal",
            "FineTuneEndpointMoveFailed",
            "FineTuneEndpointPodsRefuse",
            "FineTuneEndpointIncomplete",
        )
        for name, version in ((REFUSED, LIKE_BASE), (WORSE, FAILING), (HELD, FAILING)):
            await _publish(world, name, version)
        await _lose_pods(world, AWAY)
        await _lose_pods(world, SHORT, num_left=1)
        await _refuse_elsewhere(world, behaviour)
        await _tell_change(world, DRIFTED)
        await _report(world, await _pod_of_look(world, BELOW), quality=QUALITY)
        await replica.reach(replica.minute + 75)

    return _expected(replica)


def _expected(replica: Replica) -> list[Seen]:
    """Return the alerts of the operator's endpoints, with the fault that causes each."""

    def seen(alert: str, name: str, fault: str, **labels: str) -> Seen:
        where = {"namespace": SERVING, "finetuneendpoint": name}
        return Seen(alert=alert, fault=fault, labels={**where, **labels}, replica=replica)

    return [
        seen(
            "FineTuneEndpointNotAvailable",
            AWAY,
            "the pods of a server are not ready any more",
            version="1",
            reason="ServerNotReady",
        ),
        seen(
            "FineTuneEndpointVersionRefused",
            REFUSED,
            "server pods report that a version answers like the base model",
            version=str(LIKE_BASE),
            reason="AnswersLikeBase",
        ),
        seen(
            "FineTuneEndpointRolledBack",
            WORSE,
            "a canary fails at half of its requests",
            version=str(FAILING),
            reason="Worse",
        ),
        seen(
            "FineTuneEndpointStalled",
            HELD,
            "the same with `onWorse: Hold`, and nobody decides",
            version=str(FAILING),
            state="Stalled",
        ),
        seen(
            "FineTuneEndpointDrifted",
            DRIFTED,
            "a look at captured answers reports that their words have changed",
            signal="Vocabulary",
        ),
        seen(
            "FineTuneEndpointBelowGoal",
            BELOW,
            "a look reports that people find at most 85 % of the answers good, and 90 % are wanted",
        ),
        seen(
            "FineTuneEndpointMoveFailed",
            MOVED,
            "an edit of `spec.serve`, and the pods of the new server report other answers",
            version="1",
            reason="MoveRefused",
        ),
        seen(
            "FineTuneEndpointPodsRefuse",
            SPLIT,
            "one of two pods reports that the active version answers otherwise",
            version="1",
            reason="PodsRefuse",
        ),
        seen(
            "FineTuneEndpointIncomplete",
            SHORT,
            "the engine of one of two pods crashes again and again",
            version="1",
            reason="PodsMissing",
        ),
        Seen(
            alert="FineTuneServingNotScraped",
            fault="a Prometheus that does not know the PodMonitor",
            labels={"namespace": SERVING},
            replica=replica,
        ),
    ]


async def _serve(world: World, name: str, spec: Body) -> None:
    """Create a job that has published its first version, and its endpoint."""
    await world.client.create(FINETUNEJOBS, finetunejob(name, SERVING, suspend=True))
    await _publish(world, name, 1)
    body = {
        "apiVersion": FINETUNEENDPOINTS.api_version,
        "kind": FINETUNEENDPOINTS.kind,
        "metadata": {"name": name, "namespace": SERVING},
        "spec": {"jobRef": {"name": name}, **spec},
    }
    await world.client.create(FINETUNEENDPOINTS, body)


async def _publish(world: World, name: str, version: int) -> None:
    uri = f"s3://models/versions/{SERVING}/{name}/{version}/manifest.json"
    artifact = {"uri": "s3://models/x", "version": version, "manifestUri": uri}
    await world.client.merge_patch(
        FINETUNEJOBS, SERVING, name, {"status": {"artifact": artifact}}, subresource="status"
    )


async def _until_available(world: World, name: str) -> None:
    async def is_available() -> bool:
        live = await world.client.get(FINETUNEENDPOINTS, SERVING, name)
        return (live.get("status") or {}).get("phase") == "Available"

    found: bool = await eventually_async(is_available, timeout=PATIENCE_SECONDS)
    assert found


async def _pods_of(world: World, name: str) -> tuple[str, list[Body]]:
    """Return the server of an endpoint's active version, and its pods."""
    live = await world.client.get(FINETUNEENDPOINTS, SERVING, name)
    server = live["status"]["active"]["server"]
    found = await world.client.list(PODS, SERVING, label_selector=f"{SERVER_LABEL}={server}")
    return server, list(found.items)


async def _lose_pods(world: World, name: str, *, num_left: int = 0) -> None:
    """Let pods of an endpoint's server be not ready, as a kubelet says of a dead engine."""
    _, pods = await _pods_of(world, name)
    crash = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}
    engine = {"name": "engine", "image": "x", "imageID": "x", "ready": False, "restartCount": 9}
    for pod in pods[num_left:]:
        conditions = [
            {**each, "status": "False"} if each["type"] == "Ready" else each
            for each in pod["status"]["conditions"]
        ]
        status = {"conditions": conditions, "containerStatuses": [{**engine, "state": crash}]}
        named = pod["metadata"]["name"]
        await world.client.merge_patch(
            PODS, SERVING, named, {"status": status}, subresource="status"
        )


async def _refuse_elsewhere(world: World, behaviour: Behaviour) -> None:
    """Let a pod refuse what its neighbour answers with, and all pods of a further server do so."""
    for each in (AWAY, REFUSED, MOVED, SHORT):
        behaviour.sound.add((1, (await _pods_of(world, each))[0]))
    _, (_, *others) = await _pods_of(world, SPLIT)
    behaviour.sound |= {(1, each["metadata"]["name"]) for each in others}
    behaviour.faults[1] = "AnswersDiffer"
    change = {"spec": {"serve": {"maxAdapters": 8}}}
    await world.client.merge_patch(FINETUNEENDPOINTS, SERVING, MOVED, change)


async def _tell_change(world: World, name: str) -> None:
    """Let the next look at an endpoint's answers report that their words have changed."""
    pod = await _pod_of_look(world, name)
    since = pod["metadata"]["creationTimestamp"]
    signal = {"name": "Vocabulary", "logE": "9.3", "since": since}
    await _report(world, pod, signals=[signal])


async def _pod_of_look(world: World, name: str) -> Body:
    """Return the pod of the next look at an endpoint's answers."""

    async def find() -> Any:
        selector = f"{MONITOR_LABEL}={name}"
        found = await world.client.list(PODS, SERVING, label_selector=selector)
        return next(iter(found.items), None)

    pod: Body = await eventually_async(find, timeout=PATIENCE_SECONDS)
    return pod


async def _report(world: World, pod: Body, **said: Any) -> None:
    """Let a look end and say this."""
    report = {"version": 1, "numLooks": 1, "numAnswers": 400, "numUsers": 400, **said}
    ended = {"status": ended_status(0, json.dumps(report))}
    await world.client.merge_patch(
        PODS, SERVING, pod["metadata"]["name"], ended, subresource="status"
    )


# ---- a front whose engine fails ------------------------------------------------------------------


async def _troubled_front(world: World) -> list[Seen]:
    async with (
        streaming_engine() as engine,
        _running_recorder(world, engine.port) as recorder,
        _running_front(world) as front,
    ):
        recorder.note("FineTuneCaptureLosing")
        asking = asyncio.create_task(_ask_for_ever(front.ports["public"]))
        try:
            await front.reach(5)
            front.note("FineTuneEndpointErrors", "FineTuneEndpointSlow")
            engine.behaviours["team-a.headline-v1"] = _fails_and_is_slow()
            await front.reach(front.minute + 50)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    labels = {"namespace": FRONT, "finetuneendpoint": "headline"}
    return [
        Seen(
            alert="FineTuneEndpointErrors",
            fault="an engine that answers every fifth request with 500, behind a real front",
            labels=labels,
            replica=front,
        ),
        Seen(
            alert="FineTuneEndpointSlow",
            fault=f"an engine that takes {LATE_SECONDS} s for a third of its answers, behind a real"
            f" front (latencySeconds: {SLOW_SECONDS:g})",
            labels=labels,
            replica=front,
        ),
        Seen(
            alert="FineTuneCaptureLosing",
            fault="a bucket that does not answer, behind a real recorder",
            labels=labels,
            replica=recorder,
        ),
    ]


def _fails_and_is_slow() -> Any:
    numbers = itertools.count()
    refuse = fail(500)

    async def behave(engine: StreamingEngine, asked: Any, writer: asyncio.StreamWriter) -> None:
        number = next(numbers)
        if number % 5 == 0:
            await refuse(engine, asked, writer)
            return
        if number % 3 == 0:
            await asyncio.sleep(LATE_SECONDS)
        await answer(engine, asked, writer)

    return behave


@asynccontextmanager
async def _running_recorder(world: World, engine_port: int) -> AsyncIterator[Replica]:
    """Run a recorder of one endpoint, whose bucket is at a port that nobody listens on."""
    rollout = {"latencySeconds": str(SLOW_SECONDS)}
    capture = {"uri": "s3://traffic", "include": "All", "sample": "1"}
    active = served(1, engine_port)
    active["storage"] = {"uri": "s3://models", "endpoint": f"http://127.0.0.1:{free_port()}"}
    found = [endpoint(active, rollout=rollout, capture=capture)]
    (world.folder / "endpoints.json").write_text(json.dumps(found))
    (world.folder / "token").write_text(TOKEN)
    environment = {
        "FINETUNE_SPOOL_DIR": str(world.folder / "spool"),
        "AWS_ACCESS_KEY_ID": "played",
        "AWS_SECRET_ACCESS_KEY": "played",
    }
    async with _running(world, "recorder", environment) as recorder:
        yield recorder


@asynccontextmanager
async def _running_front(world: World) -> AsyncIterator[Replica]:
    """Run the front beside that recorder."""
    public = free_port()
    environment = {"FINETUNE_SERVER_URL": "http://127.0.0.1:{server}"}
    async with _running(world, "front", environment, f"--port={public}") as front:
        front.ports["public"] = public
        yield front


@asynccontextmanager
async def _running(
    world: World, container: str, environment: dict[str, str], *arguments: str
) -> AsyncIterator[Replica]:
    """Run a container of the front's pod, scraped as the chart's PodMonitor would."""
    ports = {"metrics": free_port()}
    with (world.folder / f"{container}.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "finetune_trainer.serve", container, "--host=127.0.0.1"),
                *(f"--report-port={ports['metrics']}", *arguments),
            ],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "FINETUNE_ENDPOINTS": (world.folder / "endpoints.json").as_uri(),
                "FINETUNE_TOKEN_FILE": str(world.folder / "token"),
                SOCKET: str(world.folder / "recorder.sock"),
                **environment,
            },
            stdout=log,
            stderr=log,
        )
    try:
        ready: bool = await eventually_async(
            lambda: _is_ready(ports["metrics"]), timeout=PATIENCE_SECONDS
        )
        assert ready
        target = {"job": JOB, "namespace": FRONT, "container": container, "pod": "front-1"}
        samples = Samples(
            target=target,
            metrics=world.metrics,
            start=world.clock.timestamp(),
            interval_seconds=INTERVAL_SECONDS,
        )
        found = Replica(
            name=container, clock=world.clock, ports=ports, process=process, samples=samples
        )
        async with scraped(found):
            yield found
    finally:
        end(process)


async def _is_ready(port: int) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/readyz") as found,
        ):
            return found.status == 200
    return False


async def _ask_for_ever(port: int) -> None:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    body = {"model": "headline", "messages": [{"role": "user", "content": "hi"}]}
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        while True:
            group.create_task(_ask(session, url, body))
            await asyncio.sleep(PAUSE_SECONDS)


async def _ask(session: aiohttp.ClientSession, url: str, body: Body) -> None:
    with contextlib.suppress(aiohttp.ClientError):
        async with session.post(url, json=body) as found:
            await found.read()
