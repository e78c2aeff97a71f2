"""The progress endpoint among strangers: what is asked of the API server, and who has to wait.

Real endpoint, client and lease; the API server is a scripted one that knows two genuine tokens.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.clock import Clock, SystemClock
from finetune_operator.kube.leader import LeaderElector
from finetune_operator.progress import endpoint as module
from finetune_operator.progress.endpoint import ProgressEndpoint
from finetune_operator.progress.identity import REVIEW_BURST, Authenticator
from kit.processes.clock import FakeClock
from kit.processes.eventually import eventually_async

REPORT = {"trainerStatus": {"progressPercentage": 42}}
REVIEW_SECONDS = 0.02
EXPIRY = time.time() + 3600


def part(value) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims(pod="one-pod", namespace="team-a", **changes) -> dict:
    return {
        "aud": ["finetune.dev"],
        "exp": EXPIRY,
        "iss": "https://kubernetes.default.svc",
        "sub": f"system:serviceaccount:{namespace}:default",
        "kubernetes.io": {"namespace": namespace, "pod": {"name": pod, "uid": f"uid-{pod}"}},
    } | changes


def token(signature="genuine", **changes) -> str:
    return f"{part({'alg': 'RS256'})}.{part(claims(**changes))}.{part(signature.encode())}"


def without(name) -> dict:
    return {"kubernetes.io": {k: v for k, v in claims()["kubernetes.io"].items() if k != name}}


class Server:
    """Reviews tokens by their signature, keeps one Lease, counts both."""

    def __init__(self):
        self.reviews: list[str] = []
        self.num_renewals = 0
        self.lease = None
        self.fails_with = 0

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        if "tokenreviews" in request.path:
            return await self.review(body["spec"]["token"])
        if request.method == "GET" and self.lease is None:
            return web.json_response({"kind": "Status", "reason": "NotFound"}, status=404)
        if body is not None:
            self.num_renewals += 1
            version = str(self.num_renewals)
            self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
        return web.json_response(self.lease)

    async def review(self, seen: str) -> web.Response:
        self.reviews.append(seen)
        if self.fails_with:
            return web.json_response({"kind": "Status"}, status=self.fails_with)
        await asyncio.sleep(REVIEW_SECONDS)
        payload = json.loads(base64.urlsafe_b64decode(seen.split(".")[1] + "=="))
        own = payload["kubernetes.io"]
        status = {"authenticated": seen.endswith("." + part(b"genuine"))}
        if status["authenticated"]:
            status["audiences"] = payload["aud"]
            status["user"] = {
                "username": payload["sub"],
                "extra": {
                    "authentication.kubernetes.io/pod-name": [own["pod"]["name"]],
                    "authentication.kubernetes.io/pod-uid": [own["pod"]["uid"]],
                },
            }
        return web.json_response({"status": status})


class Objects(dict):
    """Objects by namespace and name."""

    def get(self, namespace, name):
        return super().get((namespace, name))


class Caches:
    """A job ``one`` with a training pod in each of two teams, and a second pod in the first."""

    def __init__(self):
        self.finetunejobs, self.pods = Objects(), Objects()
        for namespace, pod in (
            ("team-a", "one-pod"),
            ("team-a", "other-pod"),
            ("team-b", "victim-pod"),
        ):
            job = {"name": "one", "namespace": namespace, "uid": f"uid-job-{namespace}"}
            self.finetunejobs[namespace, "one"] = {"metadata": job}
            labels = {"finetune.dev/job": "one", "finetune.dev/stage": "train"}
            metadata = {"name": pod, "namespace": namespace, "uid": f"uid-{pod}", "labels": labels}
            metadata["owner"] = {"uid": f"uid-child-{namespace}"}
            self.pods[namespace, pod] = {"metadata": metadata}

    def pod(self, namespace, name):
        return self.pods.get(namespace, name)

    def jobs_of(self, key):
        owner = {"uid": f"uid-job-{key[0]}"}
        return [{"metadata": {"uid": f"uid-child-{key[0]}", "owner": owner}}]


@asynccontextmanager
async def serving(clock: Clock | None = None):
    """Run endpoint and API server; yields what a test pushes with and looks at.

    Args:
        clock: Of the endpoint and its rates; the machine's if not given.
    """
    server = Server()
    api = web.Application()
    api.router.add_route("*", "/{path:.*}", server.handle)
    accepted = []
    writer = SimpleNamespace(accept=lambda job, stage, report: accepted.append(report) or True)
    clock = clock or SystemClock()
    async with TestServer(api) as running:
        connection = Connection(server=str(running.make_url("")).rstrip("/"))
        transport = Transport(connection, qps=50, burst=50)
        async with KubeClient(transport) as client:
            endpoint = ProgressEndpoint(
                Caches(),
                Authenticator(client.budgeted(qps=25, burst=25), clock=clock),
                writer,
                clock=clock,
                registry=CollectorRegistry(),
            )
            async with TestClient(TestServer(endpoint.application())) as pushing:

                async def push(bearer, *, namespace="team-a", stage="train", body=REPORT):
                    headers = {"Authorization": f"Bearer {bearer}"}
                    path = f"/progress/{namespace}/one/{stage}"
                    async with pushing.post(path, json=body, headers=headers) as response:
                        return response.status

                yield SimpleNamespace(
                    push=push, server=server, client=client, accepted=accepted, pushing=pushing
                )


@pytest.fixture(autouse=True)
def prompt_refusals(monkeypatch):
    monkeypatch.setattr(module, "REFUSAL_DELAY_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("bearer", "expected"),
    [
        ("nonsense", 401),
        ("a.b.c", 401),
        (f"x.{part([1])}.y", 401),
        ("x" * 8500, 400),
        (token(aud=["vault"]), 401),
        (token(aud="vault"), 401),
        (token(exp=time.time() - 3600), 401),
        (token(exp="soon"), 401),
        (token(iss=None), 401),
        (token(sub="system:serviceaccount:team-b:default"), 401),
        (token(sub="alice"), 401),
        (token(**{"kubernetes.io": "odd"}), 401),
        (token(**without("pod")), 401),
        (token(**without("namespace")), 401),
        (token(pod="no-such-pod"), 403),
        (token(namespace="team-b", pod="victim-pod"), 403),
    ],
    ids=[
        "no JWT", "not base64", "no object", "endless", "another audience", "another's text",
        "expired", "no time", "no issuer", "another namespace's account", "a person's",
        "odd claims", "no pod", "no namespace", "a pod nobody knows", "a pod of another team",
    ],
)  # fmt: skip
async def test_a_token_that_cannot_be_the_pods_costs_no_request(bearer, expected):
    async with serving() as world:
        assert await world.push(bearer) == expected
        assert world.server.reviews == []


async def test_a_genuine_token_is_reviewed_once():
    async with serving() as world:
        assert [await world.push(token()) for _ in range(20)] == [200] * 20
        assert len(world.server.reviews) == 1
        assert len(world.accepted) == 20


@pytest.mark.parametrize("number", [-1, 2**53, 2**63, 2**64, 10**300])
@pytest.mark.parametrize("name", ["step", "totalSteps"])
async def test_a_step_that_readers_of_json_would_round_is_refused(name, number):
    async with serving() as world:
        assert await world.push(token(), body={"finetune": {name: number}}) == 400


async def test_a_text_audience_is_as_good_as_a_list():
    async with serving() as world:
        assert await world.push(token(aud="finetune.dev")) in (200, 401)
        assert len(world.server.reviews) == 1


async def test_a_forger_gets_few_reviews_and_is_told_when_to_come_back():
    async with serving() as world:
        answers = [await world.push(token(f"forged-{number}")) for number in range(30)]
        assert answers == [401] * REVIEW_BURST + [429] * (30 - REVIEW_BURST)
        assert len(world.server.reviews) == REVIEW_BURST
        assert await world.push(token(pod="other-pod")) == 200, "a neighbour is not held up"


async def test_the_same_refused_token_is_told_why_and_not_reviewed_again():
    async with serving() as world:
        assert [await world.push(token("forged")) for _ in range(5)] == [401] * 5
        assert len(world.server.reviews) == 1


async def test_bad_tokens_drive_no_good_one_out(monkeypatch):
    from finetune_operator.progress import identity

    monkeypatch.setattr(identity, "MAX_REFUSED", 1)
    async with serving() as world:
        assert await world.push(token()) == 200
        for number in range(REVIEW_BURST):
            await world.push(token(f"forged-{number}", pod="other-pod"))
        before = len(world.server.reviews)
        assert await world.push(token()) == 200
        assert len(world.server.reviews) == before


async def test_an_api_server_in_trouble_is_not_the_pods_fault():
    async with serving() as world:
        world.server.fails_with = 500
        assert await world.push(token()) == 503
        world.server.fails_with = 0
        assert await world.push(token()) == 200


async def test_a_proven_pod_that_pushes_without_end_is_slowed_down(monkeypatch):
    monkeypatch.setattr(module, "PUSH_BURST", 5)
    async with serving() as world:
        answers = [await world.push(token()) for _ in range(20)]
        assert answers.count(200) < 10
        assert answers[-1] == 429
        assert await world.push(token(pod="other-pod")) == 200


async def test_a_body_that_never_comes_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "READ_SECONDS", 0.05)
    async with serving() as world:

        async def slowly():
            yield b"{"
            await asyncio.sleep(30)

        headers = {"Authorization": f"Bearer {token()}"}
        async with world.pushing.post(
            "/progress/team-a/one/train", data=slowly(), headers=headers
        ) as response:
            assert response.status == 408


async def test_a_refusal_comes_late_and_an_answer_at_once(monkeypatch):
    monkeypatch.setattr(module, "REFUSAL_DELAY_SECONDS", 0.3)
    async with serving() as world:
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await world.push("nonsense") == 401
        assert loop.time() - started >= 0.3


@pytest.mark.slow
async def test_junk_delays_neither_the_lease_nor_a_valid_push():
    """Two pods of a team send new forged tokens as fast as they can, and earn no more reviews."""
    async with serving(FakeClock()) as world:
        elector = LeaderElector(
            world.client.budgeted(qps=10, burst=20),
            namespace="system",
            name="operator",
            identity="me",
            clock=SystemClock(),
            lease_duration_seconds=60.0,
            renew_deadline_seconds=40.0,
            retry_period_seconds=0.01,
            rng=random.Random(1),
        )
        leading = asyncio.create_task(elector.run(asyncio.Event().wait))
        await eventually_async(lambda: elector.is_leader)
        counts: Counter[int] = Counter()

        async def forge(pod, number):
            for try_ in range(20):
                forged = token(f"forged-{number}-{try_}", pod=pod)
                counts[await world.push(forged)] += 1

        forgers = [
            asyncio.create_task(forge(pod, number))
            for pod in ("one-pod", "other-pod")
            for number in range(49)
        ]
        victim = token(pod="victim-pod", namespace="team-b")
        answers, renewals = [], [world.server.num_renewals]
        while not all(forger.done() for forger in forgers):
            answers.append(await world.push(victim, namespace="team-b"))
            await asyncio.sleep(0)
            renewals.append(world.server.num_renewals)
        assert elector.is_leader
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        assert renewals[-1] - renewals[0] >= 3, "the Lease is renewed while the flood lasts"
        assert set(answers) == {200}
        assert counts.total() == 2 * 49 * 20
        assert counts[401] <= 2 * REVIEW_BURST
