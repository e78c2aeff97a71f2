"""Print the tables of ``benchmarks/results/loop.md``.

``python -m benchmarks.loop_evidence`` prints every table; names of tables print these alone. All is
drawn by seed, so that a figure changes only when the code does; the table of costs is measured.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

from benchmarks.loop_evidence import alarms, degrading, looking, quality, sealing

NUM_YEARS = 100
NUM_CASES = 100
NUM_TRIES = 4000
NUM_ENDPOINTS = 2000
NUM_LIVES = 100


def print_quiet(scale: float) -> None:
    """Print how often alarms ring in years without change."""
    print(
        "| who asks | users of a week | looks that compare | changes found in a year "
        "| years with one |\n|---|---|---|---|---|"
    )
    for line in alarms.quiet_years(_at_least_two(NUM_YEARS * scale)):
        print(
            f"| {line.words} | {line.num_users:,} | {line.compared:.0%} | {line.rang:.2f} "
            f"| {line.years:.0%} |",
            flush=True,
        )


def print_delays(scale: float) -> None:
    """Print after how many days a change is found, and when its end is."""
    print(
        "| change | users of a week | smallest rise by the report | found within 30 days "
        "| days until then, half of the cases | days from its end until it is over "
        "|\n|---|---|---|---|---|---|"
    )
    for line in alarms.delays(_at_least_two(NUM_CASES * scale)):
        median = f"{line.median:.0f}" if math.isfinite(line.median) else "not found"
        ended = "" if line.ended is None else f"{line.ended:.0f}"
        smallest = f"{line.smallest:.3f}" if line.smallest < 1 else "none"
        print(
            f"| {line.words} | {line.num_users:,} | {smallest} | {line.found:.0%} | {median} "
            f"| {ended} |",
            flush=True,
        )


def print_quality(scale: float) -> None:
    """Print how often the interval of live quality holds the truth."""
    print(
        "| judge | rows scored by people | held the truth | upper end below it "
        "| lower end above it | mean width | of people alone |\n|---|---|---|---|---|---|---|"
    )
    for line in quality.coverages(_at_least_two(NUM_TRIES * scale)):
        print(
            f"| {line.words} | {line.num_people} | {line.held:.1%} | {line.high_wrong:.1%} "
            f"| {line.low_wrong:.1%} | {line.width:.3f} | {line.width_alone:.3f} |",
            flush=True,
        )


def print_sealing(scale: float) -> None:
    """Print how much too good held-out rows are after some cycles, and what passes by luck."""
    print(
        "| held out | after cycle | score less truth | on new rows alone "
        "| better by 0.05 and refused |\n|---|---|---|---|---|"
    )
    for line in sealing.optimisms(_at_least_two(NUM_TRIES * scale)):
        new = "" if line.on_new is None else f"{line.on_new:+.4f}"
        print(
            f"| {line.words} | {line.cycle} | {line.bias:+.4f} ± {2 * line.error:.4f} | {new} "
            f"| {line.refused:.0%} |",
            flush=True,
        )
    print(
        "\n| cycles | held-out rows in the last | published by luck | if looks were not counted "
        "| better by 0.05 and published | if looks were not counted |\n|---|---|---|---|---|---|"
    )
    for each in sealing.passed(_at_least_two(NUM_TRIES * scale)):
        print(
            f"| {each.num_cycles} | {each.num_rows} | {each.by_luck:.1%} "
            f"| {each.by_luck_uncounted:.1%} | {each.better:.0%} | {each.better_uncounted:.0%} |",
            flush=True,
        )


def print_endpoints(scale: float) -> None:
    """Print how often intervals of whole endpoints hold, and when one is called degraded."""
    print(
        "| scores | quality | weeks | held the truth | upper end below it | lower end above it "
        "| mean width |\n|---|---|---|---|---|---|---|"
    )
    for line in degrading.coverages(_at_least_two(NUM_ENDPOINTS * scale)):
        print(
            f"| {line.words} | {line.quality:.2f} | {line.num_weeks} | {line.held:.1%} "
            f"| {line.high_wrong:.1%} | {line.low_wrong:.1%} | {line.width:.3f} |",
            flush=True,
        )
    print(
        "\n| scores | quality | `Degraded` begins in a year | days of the year | years with one |\n"
        "|---|---|---|---|---|"
    )
    for year in degrading.years(_at_least_two(NUM_LIVES * scale)):
        print(
            f"| {year.words} | {year.quality:.2f} | {year.degraded:.2f} | {year.days:.1f} "
            f"| {year.rang:.0%} |",
            flush=True,
        )
    print(
        "\n| scores | found in half a year | weeks until then: half of the cases | nine of ten |\n"
        "|---|---|---|---|"
    )
    for drop in degrading.drops(_at_least_two(NUM_LIVES * scale)):
        print(
            f"| {drop.words} | {drop.found:.0%} | {drop.median:.1f} | {drop.late:.1f} |",
            flush=True,
        )


def print_cost(scale: float) -> None:
    """Print what the process of a look takes for an hour of 100,000 answers."""
    print(
        "| texts | answers | segments, MB | seconds | CPU seconds | peak MiB |\n"
        "|---|---|---|---|---|---|"
    )
    for line in looking.costs(scale):
        print(
            f"| {line.words} | {line.num_answers:,} | {line.num_bytes / 1e6:.0f} "
            f"| {line.seconds:.0f} | {line.cpu_seconds:.0f} | {line.peak_mib:.0f} |",
            flush=True,
        )


def _at_least_two(number: float) -> int:
    return max(2, round(number))


TABLES: dict[str, Callable[[float], None]] = {
    "quiet": print_quiet,
    "delays": print_delays,
    "quality": print_quality,
    "sealing": print_sealing,
    "endpoints": print_endpoints,
    "cost": print_cost,
}


def main(arguments: list[str] | None = None) -> int:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(prog="loop_evidence", description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="default: all")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the simulations to run (default: all)"
    )
    given = parser.parse_args(arguments)
    for name in given.tables or TABLES:
        start = time.process_time()
        TABLES[name](given.scale)
        print(f"\n({name}: {time.process_time() - start:.0f} s of one core)\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
