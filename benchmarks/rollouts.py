"""Print the tables of ``benchmarks/results/rollouts.md``: rollouts by evidence, simulated.

Requests are drawn by seed. Each comes from a user behind an API key, as requests do: few keys speak
for many users, and a user asks again and again. The front's own tallies count them, in several
processes, and the operator's own functions merge, weigh and decide.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from zlib import crc32

from finetune_api.protocol.serving import FrontEndpoint
from finetune_operator.finetuneendpoint.canary.rollout import Decision, Move, Rules, decide
from finetune_operator.finetuneendpoint.traffic import (
    count_requests,
    merge,
    merge_events,
    read_streams,
    tally,
)
from finetune_trainer.serve.front.rotation import number_of
from finetune_trainer.serve.front.tallies import Tallies

NUM_RUNS = 200
STEPS = (5, 25, 100)
MIN_REQUESTS = 200
CERTAINTY = 0.99
LOOK_EVERY = 20
"""Requests between two looks of the operator."""
NUM_FRONTS = 2
MAX_REQUESTS = 40_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Who asks, and what goes wrong.

    Attributes:
        keys: Number of API keys; requests are spread over them evenly.
        users: Users behind each key.
        active: Share of bad answers of the active version.
        candidate: The same of the candidate.
        signal: Kind of bad answer.
        always: Share of the users whose every answer is bad, whichever version answers.
        heavy: Share of the requests that one user makes, all of whose answers are bad.
        hostile: Whether the first key makes up a user for each request, and fails where the
            candidate answers.
        outage: Requests from the begin on that all fail, of both versions.
        daily: Factor by which bad answers rise and fall over 4,000 requests, for both versions.
        restart: Requests after which all front processes are replaced; 0 never.
        sticks: Whether each key meets one front alone.
        limit: Requests in all.
    """

    keys: int
    users: int
    active: float = 0.02
    candidate: float = 0.02
    signal: str = "errors"
    always: float = 0.0
    heavy: float = 0.0
    hostile: bool = False
    outage: int = 0
    daily: float = 1.0
    restart: int = 0
    sticks: bool = False
    limit: int = MAX_REQUESTS


class Rollout:
    """One rollout: front processes that count, and an operator that decides."""

    def __init__(self, rng: random.Random, traffic: Traffic) -> None:
        self._rng = rng
        self._traffic = traffic
        self._name = f"v2-{rng.random()}"
        self._rules = Rules(
            steps=STEPS,
            min_requests=MIN_REQUESTS,
            certainty=CERTAINTY,
            trusts_senders=traffic.keys == 1,
        )
        self._numbers: dict[tuple[int, int], int] = {}
        self._num_processes = 0
        self._fronts = [self._new_front() for _ in range(NUM_FRONTS)]
        self._weight = STEPS[0]
        self._streams = merge((), ())
        self._events = merge_events({}, ())

    def run(self) -> tuple[str, int]:
        """Return how it ended, and after how many requests."""
        told: Decision | None = None
        for number in range(1, self._traffic.limit + 1):
            self._ask(number)
            if number % LOOK_EVERY:
                continue
            told = self._look()
            if told.move in (Move.PROMOTE, Move.ROLL_BACK):
                return told.move.value, number
            self._weight = told.weight
            if self._traffic.restart and number % self._traffic.restart < LOOK_EVERY:
                self._fronts = [self._new_front() for _ in range(NUM_FRONTS)]
        assert told is not None
        return "Undecided" if told.is_undecided else "Wait", self._traffic.limit

    def _new_front(self) -> tuple[str, Tallies]:
        self._num_processes += 1
        tallies = Tallies()
        tallies.begin(self._name)
        return f"front-{self._num_processes}", tallies

    def _ask(self, number: int) -> None:
        traffic, rng = self._traffic, self._rng
        key, user = rng.randrange(traffic.keys), rng.randrange(traffic.users)
        is_heavy = rng.random() < traffic.heavy
        if is_heavy:
            key, user = 0, -1
        is_hostile = traffic.hostile and key == 0
        if is_hostile:
            user = rng.randrange(10**6)
        hashed = self._numbers.get((key, user))
        if hashed is None:
            hashed = self._numbers[key, user] = number_of(self._name, str(key), b"%d" % user)
        is_candidate = hashed < self._weight / 100 * 2**64
        share = traffic.candidate if is_candidate else traffic.active
        if traffic.daily != 1.0:
            share *= traffic.daily if number // 2000 % 2 else 1.0
        is_bad = rng.random() < share
        if is_hostile:
            is_bad = is_candidate
        elif is_heavy or number <= traffic.outage:
            is_bad = True
        elif traffic.always:
            # `hash` of a text differs from process to process.
            place = crc32(f"{self._name} {key} {user}".encode()) % 10**6
            is_bad = place < traffic.always * 10**6
        front = key % NUM_FRONTS if traffic.sticks else rng.randrange(NUM_FRONTS)
        self._fronts[front][1].count(
            rollout=self._name,
            weight=self._weight,
            is_candidate=is_candidate,
            sender=str(key),
            user=hashed,
            needed=MIN_REQUESTS,
            is_only_sender=traffic.keys == 1,
            bad=[traffic.signal] if is_bad else [],
        )

    def _look(self) -> Decision:
        reports = [
            (name, FrontEndpoint.model_validate({"name": "a", **tallies.report()}))
            for name, tallies in self._fronts
        ]
        self._streams = merge(self._streams, read_streams(reports))
        self._events = merge_events(self._events, reports)
        requests = count_requests(self._weight, self._streams)
        return decide(self._rules, self._weight, tally(self._events), requests)


def ends_of(label: str, traffic: Traffic, num_runs: int) -> list[tuple[str, int]]:
    """Return how the rollouts of one line end, and after how many requests."""
    rng = random.Random(label)
    return [Rollout(rng, traffic).run() for _ in range(num_runs)]


def print_lines(lines: dict[str, Traffic], num_runs: int) -> None:
    """Print one line for each traffic."""
    print("| traffic | rolled back | promoted | told as undecided | still waits | requests |")
    print("|---|---|---|---|---|---|")
    for label, traffic in lines.items():
        ends = ends_of(label, traffic, num_runs)
        counts = Counter(end for end, _ in ends)
        moves = (Move.ROLL_BACK.value, Move.PROMOTE.value, "Undecided", "Wait")
        shares = " | ".join(f"{counts[move] / num_runs:.1%}" for move in moves)
        middle = sorted(number for _, number in ends)[num_runs // 2]
        print(f"| {label} | {shares} | {middle} |", flush=True)


HARM = Traffic(keys=1, users=2000, candidate=0.10)
BY_KEYS = {1: 2000, 3: 700, 5: 400, 10: 200, 30: 70, 100: 20}
"""Keys, and the users behind each: 2,000 users in all."""


def print_keys(num_runs: int) -> None:
    """Print how soon harm is found with 2,000 users behind 1 to 100 keys."""
    lines = {
        f"errors 2 -> {harm:.0%}, {keys} keys of {users} users": replace(
            HARM, keys=keys, users=users, candidate=harm
        )
        for harm in (0.10, 0.06)
        for keys, users in BY_KEYS.items()
    }
    print_lines(lines, num_runs)


def print_users(num_runs: int) -> None:
    """Print what can be found with fewer users."""
    counts = ((1, 100), (1, 400), (1, 1000), (5, 20), (10, 10), (10, 40), (10, 100), (100, 1))
    lines = {
        f"errors 2 -> 10%, {keys} keys of {users} users": replace(HARM, keys=keys, users=users)
        for keys, users in counts
    }
    print_lines(lines, num_runs)


def print_kinds(num_runs: int) -> None:
    """Print other kinds of harm, and harm that an outage or a restart hides."""
    ten = replace(HARM, keys=10, users=200)
    lines = {
        "slow 5 -> 10.7%, 10 keys": replace(ten, signal="slow", active=0.05, candidate=0.107),
        "refusals 1 -> 5%, 10 keys": replace(ten, signal="refusals", active=0.01, candidate=0.05),
        "refusals 0 -> 100%, 1 key": replace(HARM, signal="refusals", active=0.0, candidate=1.0),
        "each key meets one front, 10 keys": replace(ten, sticks=True),
        "after an outage of 300 requests, 100 keys": replace(HARM, keys=100, users=20, outage=300),
        "after an outage of 1,500 requests, 100 keys": replace(
            HARM, keys=100, users=20, outage=1500
        ),
        "fronts replaced each 1,500 requests, 10 keys": replace(ten, restart=1500),
        "a hostile key beside 9 others": replace(ten, hostile=True),
    }
    print_lines(lines, num_runs)


def print_equal(num_runs: int) -> None:
    """Print how often versions that are no worse are rolled back; 1 % is allowed."""
    none = Traffic(keys=10, users=200)
    lines = {
        "1 key of 2,000 users": replace(none, keys=1, users=2000),
        "10 keys of 200 users": none,
        "2,000 keys of one user": replace(none, keys=2000, users=1),
        "one user makes 30% of the requests, all bad": replace(none, heavy=0.3),
        "3% of the users always have bad answers": replace(none, always=0.03),
        "the same, fronts replaced each 1,500 requests": replace(none, always=0.03, restart=1500),
        "bad answers rise threefold by day": replace(none, daily=3.0),
        "an outage of both versions at the begin": replace(none, outage=300),
        "a hostile key beside 9 others": replace(none, hostile=True),
        "a hostile key beside one other": replace(none, keys=2, users=1000, hostile=True),
    }
    print_lines(lines, num_runs)


def print_cost(num_runs: int) -> None:
    """Print what one look costs, with as many bad answers as are kept."""
    tallies = Tallies()
    tallies.begin("r")
    for number in range(2000):
        tallies.count(
            rollout="r",
            weight=25,
            is_candidate=number % 4 == 0,
            sender=str(number % 10),
            user=number,
            needed=MIN_REQUESTS,
            is_only_sender=False,
            bad=["errors", "slow"] if number % 2 else [],
        )
    report = tallies.report()
    told = FrontEndpoint.model_validate({"name": "a", **report})
    rules = Rules(steps=STEPS, min_requests=MIN_REQUESTS, certainty=CERTAINTY)
    start = time.process_time()
    for _ in range(num_runs):
        events = merge_events({}, [("front-1", told)])
        decide(rules, 25, tally(events), count_requests(25, read_streams([("front-1", told)])))
    one = (time.process_time() - start) / num_runs
    longest = max(len(each.cells) for each in told.events)
    print(f"A look takes {one * 1e3:.1f} ms. The longest list of users has {longest} characters.")


TABLES: dict[str, Callable[[int], None]] = {
    "keys": print_keys,
    "users": print_users,
    "kinds": print_kinds,
    "equal": print_equal,
    "cost": print_cost,
}


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "tables", nargs="*", metavar="TABLE", help=f"default: all of {list(TABLES)}"
    )
    parser.add_argument("--runs", type=int, default=NUM_RUNS)
    arguments = parser.parse_args()
    for name in arguments.tables or TABLES:
        start = time.process_time()
        print(f"\n## {name}\n")
        TABLES[name](arguments.runs)
        print(f"\n({time.process_time() - start:.0f} s of one core)", flush=True)


if __name__ == "__main__":
    main()
