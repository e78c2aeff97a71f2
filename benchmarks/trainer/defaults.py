"""Our defaults against TRL's on uneven short chat rows, in real tokens/s. Bar: at least 1.5.

Usage: python benchmarks/trainer/defaults.py [--pairs 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from step_time import measure


def main() -> int:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    steps = ["--steps", str(arguments.steps)]
    ratios = []
    for pair in range(arguments.pairs):
        ours, theirs = measure("ours", *steps), measure("defaults", *steps)
        rates = [run["tokens"] / run["seconds"] for run in (ours, theirs)]
        ratios.append(rates[0] / rates[1])
        print(
            f"pair {pair + 1}: ours {rates[0]:.0f} tokens/s, TRL's defaults {rates[1]:.0f}, "
            f"ratio {ratios[-1]:.2f}, peak {ours['peak_bytes'] / 2**30:.2f} / "
            f"{theirs['peak_bytes'] / 2**30:.2f} GiB",
            flush=True,
        )
    median = statistics.median(ratios)
    print(
        f"real tokens/s, our defaults over TRL's: median {median:.2f}; "
        f"{os.cpu_count()} cores, {date.today()}"
    )
    return 0 if median >= 1.5 else 1


if __name__ == "__main__":
    sys.exit(main())
