"""A crowd of FineTuneApprovals: what is kept is bounded, and nobody else's decision is hidden."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.memory.approvals import (
    FINETUNEAPPROVALS,
    MAX_OF_A_NAMESPACE,
    MAX_OF_A_PERSON,
    Approvals,
)
from finetune_operator.controllers.memory.caches import Caches
from finetune_operator.finetunejob.state.decisions import decide, read_decisions
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection
from finetune_operator.kube.api.resource import ObjectKey
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.cache.store import Store
from kit.cluster.fake_client import FakeClient, FakeCluster
from kit.processes.eventually import eventually_async
from kit.servers.scripted_server import reply_list, scripted_server, stream

KEY = ("team-a", "headlines")
MALLORY, RITA, SAM = "mallory@example.org", "rita@example.org", "sam@example.org"
DIGEST = "d" * 64


def approval(number: int, by: str = MALLORY, job: str = KEY[1], **spec: Any) -> dict[str, Any]:
    """Return a FineTuneApproval that is made ``number`` seconds after the others."""
    minutes, seconds = divmod(number, 60)
    created = f"2026-11-24T{minutes // 60:02}:{minutes % 60:02}:{seconds:02}Z"
    metadata = {"namespace": KEY[0], "name": f"a-{number}", "uid": f"u-{number}"}
    decided = {"subject": "DataSet", "digest": DIGEST, "decision": "Approved", "by": by, **spec}
    return {
        "metadata": {**metadata, "creationTimestamp": created, "resourceVersion": f"{number + 10}"},
        "spec": {"job": job, **decided},
    }


def rejection(number: int, by: str, **spec: Any) -> dict[str, Any]:
    return approval(number, by, decision="Rejected", reason="names", **spec)


class World:
    """The cache of approvals of one job that exists."""

    def __init__(self) -> None:
        jobs = Store()
        jobs.observe(
            "ADDED", {"metadata": {"namespace": KEY[0], "name": KEY[1], "resourceVersion": "1"}}
        )
        self.woken: list[ObjectKey] = []
        self.approvals = Approvals(
            FakeClient(FakeCluster()),  # type: ignore[arg-type]
            jobs,
            wake=lambda key, priority: self.woken.append(key),
            namespaces=(),
            rng=random.Random(1),
        )
        self.store = self.approvals.informer.store

    def create(self, *approvals: dict[str, Any]) -> None:
        for each in approvals:
            self.store.observe("ADDED", each)

    def names(self) -> set[str]:
        return {each["metadata"]["name"] for each in self.approvals.of(KEY) or ()}

    def decided(self, digest: str = DIGEST) -> tuple[str, bool] | None:
        made = decide(read_decisions(self.approvals.of(KEY) or ()), digest)
        return None if made is None else (made.by, made.is_approval)


def digest_of(number: int) -> str:
    return f"{number:064x}"


@pytest.mark.parametrize("is_before", [True, False])
def test_a_crowd_of_one_person_is_bounded_and_hides_nobody_elses_decision(is_before):
    world = World()
    crowd = [approval(n, digest=digest_of(n)) for n in range(100, 3100)]
    others = [approval(1, RITA), rejection(2, SAM)]
    if not is_before:
        others = [approval(4000, RITA), rejection(4001, SAM)]
    world.create(*(others + crowd if is_before else crowd + others))
    assert len(world.store) == MAX_OF_A_PERSON + 2
    assert {each["metadata"]["name"] for each in others} <= world.names()
    assert world.decided() == (SAM, False)


def test_the_newest_decisions_of_a_person_count():
    world = World()
    world.create(*(approval(n, RITA, digest=digest_of(n)) for n in range(500)))
    assert world.names() == {f"a-{n}" for n in range(500 - MAX_OF_A_PERSON, 500)}


def test_the_first_on_a_digest_stays_and_a_new_try_counts():
    world = World()
    world.create(*(approval(n, RITA) for n in range(500)))
    first, *others = read_decisions(world.approvals.of(KEY) or ())
    assert (first.name, others[-1].name) == ("a-0", "a-499")
    assert len(others) == MAX_OF_A_PERSON - 1


def test_ones_own_approvals_hide_no_rejection():
    world = World()
    approvals = [approval(n, RITA, digest=digest_of(n)) for n in range(1, 500)]
    world.create(rejection(0, RITA), *approvals)
    assert world.decided() == (RITA, False)


def test_what_is_kept_of_a_list_is_the_same_in_any_order():
    kept = set()
    for seed in range(5):
        world = World()
        made = [approval(n, RITA, digest=digest_of(n)) for n in range(300)]
        made += [approval(n, SAM) for n in range(1000, 1300)]
        random.Random(seed).shuffle(made)
        for each in made:
            world.store.observe(None, each)
        kept.add(frozenset(world.names()))
    assert len(kept) == 1


def test_a_crowd_on_many_jobs_is_bounded_and_hides_nobody_elses_decision():
    world = World()
    world.create(approval(0, RITA), rejection(1, SAM, digest=digest_of(7)))
    world.create(*(approval(n, job=f"none-{n}") for n in range(2, 3 * MAX_OF_A_NAMESPACE)))
    assert len(world.store) == MAX_OF_A_NAMESPACE
    assert world.decided() == (RITA, True)
    assert world.decided(digest_of(7)) == (SAM, False)


def test_a_crowd_of_names_hides_no_rejection():
    world = World()
    world.create(rejection(0, SAM))
    world.create(*(approval(n, f"user-{n}") for n in range(1, 3 * MAX_OF_A_NAMESPACE)))
    assert len(world.store) == MAX_OF_A_NAMESPACE
    assert world.decided() == (SAM, False)


def test_a_crowd_in_one_namespace_costs_another_nothing():
    world = World()
    early = approval(0, RITA)
    early["metadata"]["namespace"] = "team-b"
    world.create(early)
    world.create(*(approval(n, job=f"none-{n}") for n in range(1, 2 * MAX_OF_A_NAMESPACE)))
    assert len(world.approvals.of(("team-b", KEY[1])) or ()) == 1


def test_what_is_dropped_at_once_wakes_nobody():
    world = World()
    newest = [approval(n, digest=digest_of(n)) for n in range(1000, 1000 + MAX_OF_A_PERSON)]
    world.create(*newest)
    assert world.woken == [KEY] * MAX_OF_A_PERSON
    world.woken.clear()
    for number in range(500):
        world.store.observe(None, approval(number, digest=digest_of(number)))
    assert world.woken == []
    world.store.observe("ADDED", approval(5000, RITA))
    assert world.woken == [KEY], "one look for one decision, also where another leaves for it"


def test_what_is_counted_is_what_is_there():
    world, rng, version = World(), random.Random(3), 10_000
    for _ in range(6000):
        version += 1
        by = rng.choice([MALLORY, MALLORY, RITA, SAM])
        number, job = rng.randrange(3000), rng.choice([KEY[1], "b", f"c-{rng.randrange(900)}"])
        known = world.store.get(KEY[0], f"a-{number}")
        body = approval(number, by, job, decision=rng.choice(["Approved", "Rejected"]))
        if known is not None:
            body = {"metadata": dict(known["metadata"]), "spec": known["spec"]}
        body["metadata"]["resourceVersion"] = str(version)
        world.store.observe(rng.choice(["ADDED", "MODIFIED", "DELETED"]), body)
    kept = world.approvals._kept
    assert kept._nums[KEY[0]] == len(world.store) == sum(map(len, kept._of_person.values()))
    assert max(map(len, kept._of_person.values())) <= MAX_OF_A_PERSON
    for each in world.store.objects():
        world.store.observe("DELETED", each)
    counts = (kept._nums, kept._of_person, kept._of_namespace)
    assert not any(counts)


async def test_what_was_dropped_counts_again_once_there_is_room():
    num_lists = 0
    made = [approval(n, RITA, digest=digest_of(n)) for n in range(MAX_OF_A_PERSON + 1)]
    is_told = asyncio.Event()

    async def list_kind(request):
        nonlocal num_lists
        if FINETUNEAPPROVALS.plural not in request.path:
            return await reply_list(version="500")(request)
        num_lists += 1
        if num_lists == 1:
            return await reply_list(*made, version="500")(request)
        return await reply_list(*made[:-1], version="700")(request)

    async def watch_kind(request):
        if FINETUNEAPPROVALS.plural not in request.path or num_lists > 1:
            return await stream(then="hold")(request)
        await is_told.wait()
        gone = {**made[-1], "metadata": {**made[-1]["metadata"], "resourceVersion": "600"}}
        return await stream(("DELETED", gone))(request)

    async with (
        scripted_server() as server,
        KubeClient(Transport(Connection(server=server.url))) as client,
    ):
        server.lists.append(list_kind)
        server.watches.append(watch_kind)
        caches = Caches(
            client,
            OperatorConfig(),
            wake=lambda key, priority: None,
            forget=lambda job: None,
            has_kueue=False,
            rng=random.Random(1),
        )
        running = asyncio.create_task(caches.approvals.informer.run())
        try:
            await eventually_async(lambda: len(caches.approvals.of(KEY) or ()) == MAX_OF_A_PERSON)
            assert caches.approvals.informer.store.get(KEY[0], "a-0") is None
            is_told.set()
            await eventually_async(
                lambda: caches.approvals.informer.store.get(KEY[0], "a-0") is not None
            )
            assert num_lists == 2
        finally:
            running.cancel()
