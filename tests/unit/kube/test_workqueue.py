"""The queue's promises: dedupe, serial per key, no lost wake-up, priority, delays, back-off."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.kube.queue.workqueue import (
    MAX_HEAVY,
    PRIORITY_CHILD,
    PRIORITY_RESYNC,
    PRIORITY_USER,
    QueueShutDown,
    WorkQueue,
)
from kit.processes.eventually import eventually_async


def make_queue(**options) -> WorkQueue[str]:
    return WorkQueue("test", rng=random.Random(7), **options)


async def take_all(queue: WorkQueue[str]) -> list[str]:
    taken = []
    while len(queue):
        key = await queue.get()
        taken.append(key)
        queue.done(key)
    return taken


async def test_key_added_many_times_is_taken_once():
    queue = make_queue()
    for _ in range(5):
        queue.add("a")
    assert await take_all(queue) == ["a"]


async def test_key_added_while_processing_is_queued_again_on_done():
    queue = make_queue()
    queue.add("a")
    key = await queue.get()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done(key)
    assert await take_all(queue) == ["a"]


async def test_higher_priority_is_taken_first_and_equals_in_order():
    queue = make_queue()
    for key, priority in [("low", -100), ("a", 0), ("b", 0), ("mid", -10)]:
        queue.add(key, priority=priority)
    assert await take_all(queue) == ["a", "b", "mid", "low"]


async def test_later_add_raises_priority_but_never_lowers_it():
    queue = make_queue()
    queue.add("raised", priority=-100)
    queue.add("other", priority=-10)
    queue.add("raised", priority=0)
    queue.add("raised", priority=-100)
    assert await take_all(queue) == ["raised", "other"]


async def test_priority_of_key_added_while_processing_is_kept():
    queue = make_queue()
    queue.add("a")
    await queue.get()
    queue.add("b", priority=-10)
    queue.add("a", priority=-100)
    queue.add("a", priority=0)
    queue.done("a")
    assert await take_all(queue) == ["a", "b"]


@pytest.mark.looptime
async def test_delayed_add_comes_after_its_delay():
    queue = make_queue()
    loop = asyncio.get_running_loop()
    queue.add_after("a", 30.0)
    assert len(queue) == 0
    assert queue.num_delayed == 1
    assert await queue.get() == "a"
    assert loop.time() == pytest.approx(30.0, abs=0.01)


@pytest.mark.looptime
async def test_earliest_of_several_delayed_adds_counts_and_only_once():
    queue = make_queue()
    loop = asyncio.get_running_loop()
    queue.add_after("a", 60.0)
    queue.add_after("a", 10.0)
    queue.add_after("a", 300.0)
    queue.done(await queue.get())
    assert loop.time() == pytest.approx(10.0, abs=0.01)
    await asyncio.sleep(1000)
    assert len(queue) == 0


@pytest.mark.looptime
async def test_immediate_add_does_not_lose_a_delayed_one():
    queue = make_queue()
    queue.add_after("a", 10.0)
    queue.add("a")
    queue.done(await queue.get())
    queue.done(await queue.get())
    assert asyncio.get_running_loop().time() == pytest.approx(10.0, abs=0.01)


@pytest.mark.looptime
async def test_many_delays_use_one_timer():
    queue = make_queue()
    loop = asyncio.get_running_loop()
    before = len(loop._scheduled)
    for number in range(1000):
        queue.add_after(f"k{number}", 1000.0 - number)
    live = [timer for timer in loop._scheduled if not timer.cancelled()]
    assert len(live) <= before + 1
    order = [await queue.get() for _ in range(1000)]
    assert order == [f"k{number}" for number in reversed(range(1000))]


@pytest.mark.looptime
async def test_back_off_doubles_from_5_ms_to_1000_s_and_forget_resets_it():
    queue = make_queue()
    delays = []
    for _ in range(25):
        delays.append(queue.add_rate_limited("a"))
        queue.done(await queue.get())
    assert delays[0] == pytest.approx(0.005, rel=0.11)
    for attempt, delay in enumerate(delays):
        bound = min(1000.0, 0.005 * 2**attempt)
        assert bound <= delay <= bound * 1.1
    assert queue.num_requeues("a") == 25
    queue.forget("a")
    assert queue.num_requeues("a") == 0
    assert queue.add_rate_limited("a") < 0.006


@pytest.mark.looptime
async def test_events_during_an_outage_do_not_lengthen_the_back_off():
    """Each event brings the key back at once, and it fails again, within its pause."""

    async def outage(seconds: float, *, every: float) -> float:
        """Return how long after an outage the key is tried, if no event comes any more."""
        queue, loop = make_queue(max_delay_seconds=60.0), asyncio.get_running_loop()
        begun = loop.time()

        async def push() -> None:
            while every and loop.time() - begun < seconds - every:
                await asyncio.sleep(every)
                queue.add("a")

        events = asyncio.create_task(push())
        queue.add("a")
        while True:
            key = await queue.get()
            is_over = loop.time() - begun > seconds
            queue.done(key)
            if is_over:
                await events
                return loop.time() - begun - seconds
            queue.add_rate_limited(key)

    quiet = await outage(3.0, every=0.0)
    assert quiet < 4.0
    for every in (0.25, 0.05, 1.0):
        assert await outage(3.0, every=every) == pytest.approx(quiet, abs=0.6)


@pytest.mark.looptime
async def test_a_failure_within_a_pause_waits_for_its_end_and_does_not_count():
    queue, loop = make_queue(base_delay_seconds=10.0), asyncio.get_running_loop()
    pause = queue.add_rate_limited("a")
    queue.add_after("a", 3.0)  # an event: the earliest of delayed adds counts
    queue.done(await queue.get())
    assert queue.add_rate_limited("a") == pytest.approx(pause - 3.0, abs=0.01)
    assert queue.num_requeues("a") == 1
    queue.done(await queue.get())
    assert loop.time() == pytest.approx(pause, abs=0.01)
    assert 20.0 <= queue.add_rate_limited("a") <= 22.0
    assert queue.num_requeues("a") == 2


async def test_cancelled_waiter_passes_its_wake_up_on():
    queue = make_queue()
    first = asyncio.create_task(queue.get())
    second = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    async with asyncio.timeout(1):
        assert await second == "a"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_shut_down_hands_out_what_is_ready_then_ends_waiters():
    queue = make_queue()
    waiters = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.add("a")
    queue.add_after("later", 5)
    queue.shut_down()
    queue.add("too late")
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert results.count("a") == 1
    assert sum(isinstance(result, QueueShutDown) for result in results) == 2


@pytest.mark.looptime
async def test_metrics_have_the_names_of_client_go():
    metrics = KubeMetrics()
    queue = make_queue(metrics=metrics)
    queue.add("a")
    await queue.get()
    queue.add_rate_limited("b")
    await asyncio.sleep(3)

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"name": "test"})

    assert value("workqueue_depth") == 1
    assert value("workqueue_adds_total") == 2
    assert value("workqueue_retries_total") == 1
    assert value("workqueue_unfinished_work_seconds") == pytest.approx(3, abs=0.01)
    assert value("workqueue_longest_running_processor_seconds") == pytest.approx(3, abs=0.01)
    assert value("workqueue_queue_duration_seconds_count") == 1
    queue.done("a")
    assert value("workqueue_work_duration_seconds_sum") == pytest.approx(3, abs=0.01)


KEYS = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, st.sampled_from([0, -10, -100])),
        st.tuples(st.just("after"), KEYS, st.floats(0.0, 5.0)),
        st.tuples(st.just("retry"), KEYS, st.just(0)),
        st.tuples(st.just("pass"), st.just(""), st.floats(0.0, 3.0)),
    ),
    max_size=40,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(steps=STEPS, num_workers=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_any_schedule_is_serial_per_key_and_loses_no_wake_up(steps, num_workers, seed):
    """Each add happens before a later start of its key, and no key is ever worked on twice."""
    rng = random.Random(seed)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        queue = WorkQueue("property", rng=rng)
        busy: set[str] = set()
        last_add: dict[str, int] = {}
        last_start: dict[str, int] = {}
        tick = 0

        async def work() -> None:
            nonlocal tick
            while True:
                key = await queue.get()
                assert key not in busy, f"two workers on {key}"
                busy.add(key)
                tick += 1
                last_start[key] = tick
                await asyncio.sleep(rng.uniform(0, 0.01))
                busy.discard(key)
                queue.done(key)

        workers = [loop.create_task(work()) for _ in range(num_workers)]
        for action, key, argument in steps:
            tick += 1
            if action == "pass":
                await asyncio.sleep(argument / 100)
                continue
            last_add[key] = tick
            if action == "add":
                queue.add(key, priority=argument)
            elif action == "after":
                queue.add_after(key, argument / 100)
            else:
                queue.add_rate_limited(key)
        await eventually_async(
            lambda: not (len(queue) or queue.num_processing or queue.num_delayed), 3600.0
        )
        for worker in workers:
            assert not worker.done(), worker
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for key, added in last_add.items():
            assert last_start.get(key, 0) > added, f"wake-up of {key} lost"

    run_in_fast_time(scenario())


@settings(max_examples=100, deadline=None)
@given(adds=st.lists(st.tuples(KEYS, st.integers(-3, 3)), min_size=1, max_size=30))
def test_waiting_keys_come_by_highest_priority_then_by_age(adds):
    async def scenario() -> None:
        queue = WorkQueue("property", rng=random.Random(0))
        best: dict[str, tuple[int, int]] = {}
        for age, (key, priority) in enumerate(adds):
            queue.add(key, priority=priority)
            if key not in best or priority > best[key][0]:
                best[key] = (priority, age)
        expected = sorted(best, key=lambda key: (-best[key][0], best[key][1]))
        assert await take_all(queue) == expected

    run_in_fast_time(scenario())


TENANT_KEYS = st.tuples(st.sampled_from("abcdef"), st.integers(0, 30))
ADDS = st.lists(st.tuples(TENANT_KEYS, st.sampled_from([0, -10, -100])), max_size=80)


@settings(max_examples=200, deadline=None)
@given(rounds=st.lists(st.tuples(ADDS, st.integers(0, 60)), min_size=1, max_size=6))
def test_tenants_have_their_turns_and_each_key_its_place(rounds):
    """Keys come and go: none is lost, each tenant's are in order, and nobody waits for long."""

    async def scenario() -> None:
        queue = WorkQueue("property", rng=random.Random(0), tenant_of=lambda key: key[0])
        waiting: dict[tuple[str, int], tuple[int, int]] = {}
        since: dict[str, int] = {}
        age = num_taken = 0

        async def take() -> None:
            nonlocal num_taken
            key = await queue.get()
            queue.done(key)
            place = (-waiting[key][0], waiting[key][1])
            num_tenants = len({tenant for tenant, _ in waiting})
            del waiting[key]
            others = [(-p, a) for (tenant, _), (p, a) in waiting.items() if tenant == key[0]]
            assert all(place < other for other in others)
            num_taken += 1
            most_tenants = max(num_tenants, 6)
            since[key[0]] = num_taken
            for tenant in {tenant for tenant, _ in waiting}:
                assert num_taken - since[tenant] <= 2 * most_tenants

        for adds, count in rounds:
            for key, priority in adds:
                age += 1
                if key not in waiting or priority > waiting[key][0]:
                    if key[0] not in {tenant for tenant, _ in waiting}:
                        since[key[0]] = num_taken
                    waiting[key] = (priority, age)
                queue.add(key, priority=priority)
            for _ in range(min(count, len(waiting))):
                await take()
        while waiting:
            await take()
        assert len(queue) == 0
        assert not queue._light._lanes

    run_in_fast_time(scenario())


async def test_a_new_key_of_another_tenant_is_taken_before_a_crowd():
    queue = WorkQueue("queue", rng=random.Random(0), tenant_of=lambda key: key[0])
    for number in range(500):
        queue.add(("greedy", number))
    queue.add(("other", 0), priority=PRIORITY_RESYNC)
    taken = [await queue.get() for _ in range(2)]
    assert ("other", 0) in taken
    queue.add(("third", 0))
    taken = [await queue.get() for _ in range(4)]
    assert ("third", 0) in taken


async def test_urgent_keys_of_others_do_not_keep_a_tenant_waiting_for_ever():
    queue = WorkQueue("queue", rng=random.Random(0), tenant_of=lambda key: key[0])
    queue.add(("patient", 0), priority=PRIORITY_CHILD)
    for number in range(4):
        queue.add((f"urgent-{number}", 0))
    for _ in range(10):
        key = await queue.get()
        if key[0] == "patient":
            break
        queue.done(key)
        queue.add(key)
    else:
        pytest.fail("it had no turn")


async def test_an_urgent_key_is_taken_before_the_crowds_of_many_tenants():
    queue = WorkQueue("queue", rng=random.Random(0), tenant_of=lambda key: key[0])
    for number in range(5000):
        queue.add((f"team-{number % 100}", number), priority=PRIORITY_RESYNC)
    await queue.get()
    queue.add(("team-7", -1))
    assert ("team-7", -1) in [await queue.get() for _ in range(2)]


def is_large(key: tuple[str, int]) -> bool:
    return key[0].startswith("large")


async def test_of_heavy_keys_only_a_few_are_in_work_and_light_ones_pass_them():
    queue = WorkQueue(
        "queue", rng=random.Random(0), tenant_of=lambda key: key[0], is_heavy=is_large
    )
    for number in range(50):
        queue.add(("large", number))
    async with asyncio.timeout(5):  # without a limit there are fewer keys than are asked for
        held = [await queue.get() for _ in range(MAX_HEAVY)]
    assert len(queue) == 50 - MAX_HEAVY
    waiter = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not waiter.done()
    queue.add(("small", 0))
    assert await waiter == ("small", 0)
    waiter = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not waiter.done()
    queue.done(held.pop())
    assert is_large(await waiter)


async def test_light_and_heavy_keys_are_taken_in_turn():
    queue = WorkQueue("queue", rng=random.Random(0), is_heavy=is_large)
    for number in range(20):
        queue.add(("large", number), priority=PRIORITY_USER)
        queue.add(("small", number), priority=PRIORITY_RESYNC)
    for _ in range(10):
        taken = [await queue.get() for _ in range(2)]
        assert sorted(name for name, _ in taken) == ["large", "small"]
        for key in taken:
            queue.done(key)


async def test_a_waiting_heavy_key_that_is_raised_comes_first_and_once():
    queue = WorkQueue("queue", rng=random.Random(0), is_heavy=is_large)
    for number in range(9):
        queue.add(("large", number), priority=PRIORITY_RESYNC)
    queue.add(("large", 7), priority=PRIORITY_USER)
    assert len(queue) == 9
    taken = []
    for _ in range(9):
        taken.append(await queue.get())
        queue.done(taken[-1])
    assert taken[0] == ("large", 7)
    assert sorted(taken) == [("large", number) for number in range(9)]


async def test_a_queue_that_is_shut_down_hands_out_its_heavy_keys_and_ends_every_waiter():
    queue = WorkQueue("queue", rng=random.Random(0), is_heavy=is_large)
    for number in range(7):
        queue.add(("large", number))
    taken = []

    async def work() -> None:
        while True:
            key = await queue.get()
            taken.append(key)
            await asyncio.sleep(0)
            queue.done(key)

    queue.shut_down()
    workers = asyncio.gather(*(work() for _ in range(16)), return_exceptions=True)
    ends = await asyncio.wait_for(workers, timeout=5)
    assert len(taken) == 7
    assert {type(end) for end in ends} == {QueueShutDown}


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "take", "done"]), TENANT_KEYS, st.integers(-2, 2)),
        max_size=120,
    )
)
def test_no_key_is_lost_or_held_twice_whatever_is_heavy(steps):
    async def scenario() -> None:
        queue = WorkQueue(
            "property",
            rng=random.Random(0),
            tenant_of=lambda key: key[0],
            is_heavy=lambda key: key[1] % 2 == 0,
        )
        held: set[tuple[str, int]] = set()
        wanted: set[tuple[str, int]] = set()

        async def take() -> bool:
            if not queue._can_take():
                return False
            key = await queue.get()
            assert key not in held
            held.add(key)
            wanted.discard(key)
            assert sum(number % 2 == 0 for _, number in held) <= MAX_HEAVY
            return True

        def give_back(key: tuple[str, int]) -> None:
            held.remove(key)
            queue.done(key)

        for what, key, priority in steps:
            if what == "add":
                queue.add(key, priority=priority)
                wanted.add(key)
            elif what == "take":
                await take()
            elif held:
                give_back(min(held))
        while held or wanted:
            if not await take():
                give_back(min(held))
        assert len(queue) == 0

    run_in_fast_time(scenario())


async def test_turns_that_are_over_are_forgotten():
    queue = WorkQueue("queue", rng=random.Random(0), tenant_of=lambda key: key[0])
    for tenant in range(20):
        for number in range(50):
            queue.add((f"team-{tenant}", number), priority=PRIORITY_RESYNC)
    for number in range(900):
        queue.add(("urgent", number))
        queue.done(await queue.get())
        assert len(queue._light._by_priority) <= 4 * 21 + 64 + 1
        assert len(queue._light._by_turn) <= 4 * 21 + 64 + 1


@settings(max_examples=100, deadline=None)
@given(
    events=st.lists(st.floats(0.0, 60.0), max_size=30),
    outage=st.floats(0.0, 60.0),
    seed=st.integers(0, 2**16),
)
def test_no_events_make_a_key_wait_longer_than_the_outage_has_lasted(events, outage, seed):
    """Pauses double: the first try after an outage comes before it has lasted as long again."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        queue = WorkQueue("property", rng=random.Random(seed), max_delay_seconds=60.0)
        start = loop.time()
        queue.add("a")
        for seconds in events:
            loop.call_later(seconds, queue.add, "a")
        while loop.time() - start <= outage:
            key = await queue.get()
            queue.done(key)
            if loop.time() - start <= outage:
                queue.add_rate_limited(key)
        assert loop.time() - start <= 2.2 * outage + 0.02

    run_in_fast_time(scenario())


@settings(max_examples=60, deadline=None)
@given(delays=st.lists(st.tuples(KEYS, st.floats(0.1, 1000.0)), min_size=1, max_size=20))
def test_delayed_keys_come_exactly_at_their_earliest_time(delays):
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        queue = WorkQueue("property", rng=random.Random(0))
        start = loop.time()
        for key, delay in delays:
            queue.add_after(key, delay)
        earliest: dict[str, float] = {}
        for key, delay in delays:
            earliest[key] = min(delay, earliest.get(key, delay))
        for _ in earliest:
            key = await queue.get()
            assert loop.time() - start == pytest.approx(earliest[key], abs=0.01)
            queue.done(key)
        assert len(queue) == queue.num_delayed == 0

    run_in_fast_time(scenario())


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time is what the next timer says; hypothesis cannot use looptime's marker."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_time = 0.0

    def time(self) -> float:
        return self._virtual_time

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self._virtual_time = max(self._virtual_time, self._scheduled[0].when())
        super()._run_once()


def run_in_fast_time(scenario) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario)
