"""Print the tables of ``benchmarks/results/rollouts.md``: rollouts by evidence, simulated.

Requests are drawn by seed: each is asked by somebody whose hash gives them to the candidate or to
the active version. Errors are counted as the front counts them, once a sender and rollout. The
product's own functions decide, after every few requests.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune_operator.finetuneendpoint.canary.evidence import (
    ODDS_RATIOS,
    Counts,
    Stream,
    log_bound,
    log_e_value,
)
from finetune_operator.finetuneendpoint.canary.rollout import Move, Rules, decide

Numbers = npt.NDArray[np.int64]

NUM_RUNS = 1000
WEIGHT = 10
CERTAINTY = 0.99
NUM_REQUESTS = 4000
"""Requests to the candidate in each run; at a weight of 10 %, a tenth of all."""
Z_INTERVAL = 10
Z_BOUND = 2.326
"""One-sided 0.99 quantile of the normal distribution."""
RULES = Rules(steps=(WEIGHT, 100), min_requests=NUM_REQUESTS + 1, certainty=CERTAINTY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Counts of all runs after each request to the candidate: one row a run.

    Attributes:
        new: Requests to the candidate.
        old: Requests to the active version.
        bad_new: Failures of the candidate that count.
        bad_old: Failures of the active version that count.
    """

    new: Numbers
    old: Numbers
    bad_new: Numbers
    bad_old: Numbers


def draw(
    rng: np.random.Generator,
    num_runs: int,
    active: float,
    candidate: float,
    *,
    loud: float = 0.0,
    counts_once: bool = True,
) -> Traffic:
    """Draw the traffic of all runs.

    Args:
        rng: Where the numbers come from.
        num_runs: Number of runs.
        active: Error rate of the active version.
        candidate: Error rate of the candidate.
        loud: Share of the requests that one person makes, whose requests all fail. Everybody else
            asks once.
        counts_once: Whether that person's failures count once, as the front counts them.
    """
    shape = (num_runs, NUM_REQUESTS)
    between = rng.negative_binomial(1, WEIGHT / 100, size=shape)
    new = np.ones(shape, dtype=np.int64)
    bad_new = (rng.random(shape) < candidate).astype(np.int64)
    bad_old = rng.binomial(between, active)
    old = between.copy()
    if loud:
        asked = rng.negative_binomial(1 + between, 1 - loud)
        is_new = rng.random((num_runs, 1)) < WEIGHT / 100
        is_first = (asked > 0) & (np.cumsum(asked > 0, axis=1) == 1)
        counted = is_first.astype(np.int64) if counts_once else asked
        new, old = new + asked * is_new, old + asked * ~is_new
        bad_new, bad_old = bad_new + counted * is_new, bad_old + counted * ~is_new
    sums = (np.cumsum(each, axis=1) for each in (new, old, bad_new, bad_old))
    return Traffic(**dict(zip(("new", "old", "bad_new", "bad_old"), sums, strict=True)))


def found_after(traffic: Traffic, *, every: int = 1) -> list[int | None]:
    """Return after how many requests to the candidate the product rolls back, for each run.

    Args:
        traffic: The counts.
        every: Requests to the candidate between two looks.
    """
    return [_found_in(traffic, run, every) for run in range(len(traffic.new))]


def _found_in(traffic: Traffic, run: int, every: int) -> int | None:
    # Between two bad events of the candidate the evidence only falls: nothing new can be decided.
    bad = traffic.bad_new[run, every - 1 :: every]
    for look in np.flatnonzero(np.diff(bad, prepend=0)) * every + every - 1:
        new, old = int(traffic.new[run, look]), int(traffic.old[run, look])
        stream = Stream(
            front="front",
            weight=WEIGHT,
            active=Counts(requests=old, errors=int(traffic.bad_old[run, look])),
            candidate=Counts(requests=new, errors=int(traffic.bad_new[run, look])),
        )
        if decide(RULES, WEIGHT, [stream]).move is Move.ROLL_BACK:
            return new
    return None


def z_test_after(traffic: Traffic) -> list[int | None]:
    """Return after how many requests to the candidate a repeated z-test calls it worse."""
    new, old, bad_new, bad_old = (
        each[:, Z_INTERVAL - 1 :: Z_INTERVAL]
        for each in (traffic.new, traffic.old, traffic.bad_new, traffic.bad_old)
    )
    old = np.maximum(old, 1)
    pooled = (bad_new + bad_old) / (new + old)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(pooled * (1 - pooled) * (1 / new + 1 / old))
        z = np.nan_to_num((bad_new / new - bad_old / old) / spread, nan=0.0)
    is_worse = z > Z_BOUND
    first = is_worse.argmax(axis=1)
    found = is_worse.any(axis=1)
    return [int(new[run, first[run]]) if found[run] else None for run in range(len(new))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """How a way of deciding did over all runs.

    Attributes:
        share: Share of the runs in which the candidate was called worse.
        median: Requests to the candidate until then, over all runs; None if in fewer than half.
        late: The same at nine runs of ten.
    """

    share: float
    median: float | None
    late: float | None


def summary(found: list[int | None]) -> Line:
    """Return share, median and ninth decile of the delays."""
    delays = np.array([math.inf if each is None else each for each in found])

    def at(quantile: float) -> float | None:
        value = float(np.quantile(delays, quantile, method="higher"))
        return value if math.isfinite(value) else None

    return Line(share=float(np.isfinite(delays).mean()), median=at(0.5), late=at(0.9))


Way = Callable[[Traffic], list[int | None]]
WAYS: dict[str, Way] = {
    "product, looks at each request": found_after,
    "product, looks at every 5th": lambda traffic: found_after(traffic, every=5),
    "z-test every 10 requests": z_test_after,
}


def print_rates(num_runs: int) -> None:
    """Print false rollbacks, and how soon harm is found."""
    print("| errors, active -> candidate | way | called worse | median | nine of ten |")
    print("|---|---|---|---|---|")
    for seed, (active, candidate) in enumerate(
        [
            (0.0, 0.0),
            (0.001, 0.001),
            (0.02, 0.02),
            (0.05, 0.02),
            (0.02, 0.03),
            (0.02, 0.04),
            (0.02, 0.06),
            (0.02, 0.10),
            (0.02, 0.30),
            (0.001, 0.01),
        ]
    ):
        traffic = draw(np.random.default_rng(seed), num_runs, active, candidate)
        for name, way in WAYS.items():
            told = _words(summary(way(traffic)))
            print(f"| {active:.1%} -> {candidate:.1%} | {name} | {told} |", flush=True)


def print_loud(num_runs: int) -> None:
    """Print what one person does who makes many requests, all of which fail."""
    print("| one person's requests, all fail | way | called worse | median | nine of ten |")
    print("|---|---|---|---|---|")
    for loud in (0.1, 0.4):
        for name, way, counts_once in (
            ("product", found_after, True),
            ("product, if each failure counted", found_after, False),
            ("z-test, each failure", z_test_after, False),
        ):
            rng = np.random.default_rng(100)
            traffic = draw(rng, num_runs, 0.02, 0.02, loud=loud, counts_once=counts_once)
            print(f"| {loud:.0%} | {name} | {_words(summary(way(traffic)))} |", flush=True)


def print_steps(num_runs: int) -> None:
    """Print how rollouts in the default steps end, and after how many requests."""
    print("| errors, active -> candidate | promoted | rolled back | still held | requests |")
    print("|---|---|---|---|---|")
    for seed, (active, candidate) in enumerate(
        [(0.0, 0.0), (0.0001, 0.0001), (0.001, 0.001), (0.02, 0.02), (0.02, 0.03), (0.02, 0.06)],
        start=200,
    ):
        ends = [
            walk(np.random.default_rng((seed, number)), active, candidate)
            for number in range(num_runs)
        ]
        shares = [
            np.mean([move is each for move, _ in ends])
            for each in (Move.PROMOTE, Move.ROLL_BACK, Move.WAIT)
        ]
        middle = np.median([asked for _, asked in ends])
        told = " | ".join(f"{share:.1%}" for share in shares)
        print(f"| {active:.2%} -> {candidate:.2%} | {told} | {middle:.0f} |", flush=True)


def walk(rng: np.random.Generator, active: float, candidate: float) -> tuple[Move, int]:
    """Walk through the default steps, and look each ten requests of the candidate.

    Returns:
        The end, ``WAIT`` if there is none, and the number of requests of the candidate.
    """
    rules = Rules(steps=(5, 25, 100), min_requests=200, certainty=CERTAINTY)
    weight, asked, streams = 5, 0, {5: (Counts(), Counts())}
    while asked < NUM_REQUESTS:
        others = int(rng.negative_binomial(10, weight / 100))
        old, new = streams[weight]
        streams[weight] = (
            old + Counts(requests=others, errors=int(rng.binomial(others, active))),
            new + Counts(requests=10, errors=int(rng.binomial(10, candidate))),
        )
        asked += 10
        made = decide(
            rules,
            weight,
            [
                Stream(front="front", weight=w, active=a, candidate=c)
                for w, (a, c) in streams.items()
            ],
        )
        if made.move in (Move.PROMOTE, Move.ROLL_BACK):
            return made.move, asked
        if made.move is Move.ADVANCE:
            weight = made.weight
            streams[weight] = (Counts(), Counts())
    return Move.WAIT, asked


def print_grids(num_runs: int) -> None:
    """Print the delays of other grids of odds ratios, for half of the stake as in the product."""
    grids = {
        "the product's": ODDS_RATIOS,
        "2 to 30": (2.0, 3.0, 5.0, 10.0, 30.0),
        "2 to 16": (2.0, 4.0, 8.0, 16.0),
        "3 to 15": (3.0, 6.0, 15.0),
        "5 alone": (5.0,),
    }
    harms = (0.02, 0.03, 0.04, 0.06, 0.10, 0.30)
    print("| odds ratios | " + " | ".join(f"2 % -> {harm:.0%}" for harm in harms) + " |")
    print("|---|" + "---|" * len(harms))
    for name, grid in grids.items():
        cells = []
        for seed, harm in enumerate(harms, start=300):
            found = grid_delays(np.random.default_rng(seed), grid, harm, num_runs)
            is_found = np.isfinite(found)
            middle = np.quantile(found, 0.5, method="higher")
            cells.append(f"{middle:.0f}" if np.isfinite(middle) else f"found {is_found.mean():.1%}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def grid_delays(
    rng: np.random.Generator, grid: tuple[float, ...], harm: float, num_runs: int
) -> npt.NDArray[np.float64]:
    """Return requests until worse is shown with a grid, at 2 % errors of the active version."""
    w = WEIGHT / 100
    new = np.cumsum(rng.random((num_runs, NUM_REQUESTS)) < harm, axis=1)
    others = rng.negative_binomial(1, w, size=(num_runs, NUM_REQUESTS))
    old = np.cumsum(rng.binomial(others, 0.02), axis=1)
    e_value = np.zeros(new.shape)
    for ratio in grid:
        q = w * ratio / (w * ratio + 1 - w)
        log_e = new * math.log(q / w) + old * math.log((1 - q) / (1 - w))
        e_value += np.exp(np.minimum(log_e, 700)) / len(grid)
    shown = 0.5 * e_value + 0.5 >= math.exp(log_bound(CERTAINTY))
    found = np.where(shown.any(axis=1), shown.argmax(axis=1) + 1.0, np.inf)
    return np.asarray(found, dtype=np.float64)


def print_cost(num_runs: int) -> None:
    """Print what one look costs."""
    streams = [
        Stream(
            front=f"front-{n}", weight=w, active=Counts(requests=9, errors=n), candidate=Counts()
        )
        for n in range(16)
        for w in (5, 25)
    ]
    start = time.process_time()
    for _ in range(num_runs):
        decide(RULES, 25, streams)
    one = (time.process_time() - start) / num_runs
    start = time.process_time()
    for _ in range(num_runs):
        log_e_value({5: (7, 2), 25: (9, 3)})
    signal = (time.process_time() - start) / num_runs
    print(f"A look at 32 streams takes {one * 1e6:.0f} us, one signal {signal * 1e6:.1f} us.")


TABLES: dict[str, Callable[[int], None]] = {
    "rates": print_rates,
    "loud": print_loud,
    "steps": print_steps,
    "grids": print_grids,
    "cost": print_cost,
}


def _words(line: Line) -> str:
    told = (f"{each:.0f}" if each is not None else "-" for each in (line.median, line.late))
    return f"{line.share:.1%} | {' | '.join(told)}"


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
