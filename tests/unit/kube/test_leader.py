"""Leadership: never two at work, whatever clocks, networks and schedulers do."""

from __future__ import annotations

import asyncio
import random

import pytest

from finetune_operator.kube.api.errors import ServerUnavailable, TransportError
from finetune_operator.kube.api.resource import LEASES
from finetune_operator.kube.leader import LeaderElector, LeadershipLost
from kit.cluster.fake_client import FakeClient, FakeCluster
from kit.processes.clock import LoopClock
from kit.processes.eventually import eventually_async

pytestmark = pytest.mark.looptime

DOWN = TransportError("put lease", message="connection refused")


class Candidate:
    """One process: its client, clock, elector, and the times at which it worked."""

    def __init__(self, cluster: FakeCluster, identity: str, *, skew_seconds: float = 0.0) -> None:
        self.client = FakeClient(cluster)
        self.clock = LoopClock(skew_seconds=skew_seconds)
        self.elector = LeaderElector(
            self.client,
            namespace="ns",
            name="op",
            identity=identity,
            clock=self.clock,
            rng=random.Random(identity),
        )
        self.is_working = False
        self.started_at: list[float] = []
        self.task: asyncio.Task | None = None

    def start(self) -> Candidate:
        self.task = asyncio.create_task(self.elector.run(self._work))
        return self

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _work(self) -> None:
        self.is_working = True
        self.started_at.append(self.clock.monotonic())
        try:
            await asyncio.Event().wait()
        finally:
            self.is_working = False


def lease(cluster: FakeCluster) -> dict:
    return cluster.objects["leases", "ns", "op"]["spec"]


async def working(candidate: Candidate, timeout: float = 60.0) -> None:
    await eventually_async(lambda: candidate.is_working, timeout, interval=0.1)


async def test_first_candidate_creates_the_lease_and_works():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one, 1.0)
    assert lease(cluster)["holderIdentity"] == "one"
    assert lease(cluster)["leaseDurationSeconds"] == 15
    assert one.elector.is_leader
    await one.stop()


async def test_only_one_works_and_the_lease_is_renewed():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    two = Candidate(cluster, "two").start()
    await asyncio.sleep(600)
    assert (one.is_working, two.is_working) == (True, False)
    assert two.elector.holder == "one"
    assert len(one.started_at) == 1
    for candidate in (one, two):
        await candidate.stop()


async def test_clean_stop_ends_work_then_releases_and_the_standby_starts_at_once():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    two = Candidate(cluster, "two").start()
    await asyncio.sleep(30)
    stopped_at = one.clock.monotonic()
    await one.stop()
    assert not one.is_working
    assert lease(cluster)["holderIdentity"] == ""
    await working(two)
    assert two.started_at[0] - stopped_at <= 3.0
    assert lease(cluster)["leaseTransitions"] == 1
    await two.stop()


async def test_dead_leader_is_followed_after_its_lease_ran_out():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    two = Candidate(cluster, "two").start()
    await asyncio.sleep(30)
    one.client.down = DOWN
    died_at = one.clock.monotonic()
    await working(two)
    assert 13.0 <= two.started_at[0] - died_at <= 20.0
    await asyncio.gather(one.task, return_exceptions=True)
    await two.stop()


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
async def test_wall_clocks_apart_by_an_hour_change_nothing(skew):
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    two = Candidate(cluster, "two", skew_seconds=skew).start()
    await asyncio.sleep(120)
    assert (one.is_working, two.is_working) == (True, False)
    one.client.down = DOWN
    await working(two)
    await asyncio.gather(one.task, return_exceptions=True)
    await two.stop()


async def test_work_ends_before_the_lease_does_when_the_server_is_unreachable():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    await asyncio.sleep(30)
    one.client.down = DOWN
    cut_at = one.clock.monotonic()
    with pytest.raises(LeadershipLost):
        await one.task
    assert not one.is_working
    assert one.clock.monotonic() - cut_at <= 10.5
    with pytest.raises(LeadershipLost):
        one.elector.fence()


@pytest.mark.parametrize(
    "error",
    [DOWN, ServerUnavailable("put", status=503), TimeoutError(), RuntimeError("a bug")],
    ids=["transport", "5xx", "timeout", "bug"],
)
async def test_any_error_while_renewing_leads_to_a_stop_not_to_split_brain(error):
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    two = Candidate(cluster, "two").start()
    await asyncio.sleep(30)
    one.client.down = error
    while not two.is_working:
        assert not (one.is_working and two.is_working)
        await asyncio.sleep(0.1)
    assert not one.is_working
    await asyncio.gather(one.task, return_exceptions=True)
    await two.stop()


async def test_short_outage_is_survived_without_losing_the_lease():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    one.client.down = DOWN
    await asyncio.sleep(6)
    one.client.down = None
    await asyncio.sleep(60)
    assert one.is_working
    assert len(one.started_at) == 1
    await one.stop()


async def test_renewal_whose_answer_was_lost_is_recognised_as_our_own():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    one.client.down, one.client.lose_answers = DOWN, True
    await asyncio.sleep(5)
    one.client.down, one.client.lose_answers = None, False
    await asyncio.sleep(60)
    assert one.is_working
    assert lease(cluster).get("leaseTransitions", 0) == 0
    await one.stop()


async def test_slow_answers_do_not_stretch_leadership():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    await asyncio.sleep(10)
    one.client.latency_seconds = 60.0
    slow_from = one.clock.monotonic()
    with pytest.raises(LeadershipLost):
        await one.task
    assert one.clock.monotonic() - slow_from <= 10.5


async def test_stolen_lease_stops_work_at_the_next_renewal():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    thief = FakeClient(cluster)
    stolen = await thief.get(LEASES, "ns", "op")
    stolen["spec"]["holderIdentity"] = "thief"
    await thief.replace(LEASES, stolen)
    with pytest.raises(LeadershipLost):
        await one.task
    assert not one.is_working
    assert lease(cluster)["holderIdentity"] == "thief"


async def test_deleted_lease_is_made_again_by_its_holder():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    cluster.objects.clear()
    await asyncio.sleep(10)
    assert one.is_working
    assert lease(cluster)["holderIdentity"] == "one"
    await one.stop()


async def test_paused_process_is_fenced_from_the_moment_it_wakes():
    """SIGSTOP: time passes, nothing runs; the fence looks at the clock, not at a flag."""
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    assert one.elector.is_leader
    one.elector.fence()
    asleep = one.clock.monotonic() + 11.0
    one.clock.monotonic = lambda: asleep
    assert not one.elector.is_leader
    with pytest.raises(LeadershipLost, match="one"):
        one.elector.fence()
    with pytest.raises(LeadershipLost):
        await one.task


async def test_slow_work_is_awaited_before_the_lease_is_released():
    cluster = FakeCluster()
    client = FakeClient(cluster)
    order = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)
            order.append(f"ended, holder={lease(cluster)['holderIdentity']}")

    elector = LeaderElector(
        client, namespace="ns", name="op", identity="one", clock=LoopClock(), rng=random.Random(1)
    )
    task = asyncio.create_task(elector.run(work))
    await eventually_async(lambda: elector.is_leader, interval=0.1)
    task.cancel()
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert order == ["ended, holder=one"]
    assert lease(cluster)["holderIdentity"] == ""


async def test_error_of_the_work_comes_out_and_the_lease_is_released():
    cluster = FakeCluster()

    async def work() -> None:
        raise ValueError("broken")

    elector = LeaderElector(
        FakeClient(cluster), namespace="ns", name="op", identity="one", clock=LoopClock()
    )
    with pytest.raises(ValueError, match="broken"):
        await elector.run(work)
    assert lease(cluster)["holderIdentity"] == ""


async def test_lost_leader_can_run_again_and_win():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)
    one.client.down = DOWN
    await asyncio.gather(one.task, return_exceptions=True)
    one.client.down = None
    one.start()
    await working(one)
    await one.stop()


async def test_gauge_shows_who_leads():
    cluster = FakeCluster()
    one = Candidate(cluster, "one").start()
    await working(one)

    def gauge() -> float | None:
        return one.client.metrics.registry.get_sample_value(
            "leader_election_master_status", {"name": "op"}
        )

    assert gauge() == 1
    await one.stop()
    assert gauge() == 0


@pytest.mark.parametrize("times", [(10, 15, 2), (15, 10, 10), (15, 10, 0)])
async def test_unsafe_times_are_refused(times):
    with pytest.raises(ValueError, match="lease duration"):
        LeaderElector(
            FakeClient(),
            namespace="ns",
            name="op",
            identity="one",
            clock=LoopClock(),
            lease_duration_seconds=times[0],
            renew_deadline_seconds=times[1],
            retry_period_seconds=times[2],
        )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
async def test_three_candidates_under_random_faults_never_work_at_once(seed):
    rng = random.Random(seed)
    cluster = FakeCluster()
    candidates = [Candidate(cluster, name, skew_seconds=rng.uniform(-600, 600)) for name in "abc"]
    for candidate in candidates:
        candidate.start()
    terms = 0
    for step in range(3000):
        if step % 50 == 0:
            for candidate in candidates:
                candidate.client.down = rng.choice([None, None, DOWN])
                candidate.client.lose_answers = rng.random() < 0.3
                candidate.client.latency_seconds = rng.choice([0.0, 0.1, 4.0, 20.0])
                if candidate.task.done():
                    candidate.start()
        await asyncio.sleep(0.2)
        assert sum(c.is_working and c.elector.is_leader for c in candidates) <= 1
        assert sum(c.is_working for c in candidates) <= 1
    terms = sum(len(c.started_at) for c in candidates)
    assert terms >= 2
    for candidate in candidates:
        await candidate.stop()
