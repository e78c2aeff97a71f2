"""Our step time over a plain TRL script's with identical settings, in pairs. Bar: at most 1.03.

Usage: python benchmarks/trainer/step_time.py [--pairs 4]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

MEASURE = Path(__file__).with_name("measure.py")


def measure(*arguments: str) -> dict[str, Any]:
    """Run one variant in a fresh process."""
    env = {"OMP_NUM_THREADS": str(os.cpu_count()), "HF_HUB_OFFLINE": "1", **os.environ}
    output = subprocess.run(
        [sys.executable, str(MEASURE), *arguments],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env,
    ).stdout  # fmt: skip
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return result


def main() -> int:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    steps = ["--steps", str(arguments.steps)]
    ratios = []
    recipe = ""
    for pair in range(arguments.pairs):
        if pair % 2 and recipe:
            # Every other pair the other way round: a machine that slows down favours neither.
            plain = measure("plain", "--recipe", recipe, *steps)
            ours = measure("ours", *steps)
        else:
            ours = measure("ours", *steps)
            recipe = json.dumps(ours["recipe"])
            plain = measure("plain", "--recipe", recipe, *steps)
        ratios.append(ours["seconds"] / plain["seconds"])
        print(
            f"pair {pair + 1}: ours {ours['seconds']:.2f} s, plain TRL {plain['seconds']:.2f} s, "
            f"ratio {ratios[-1]:.3f}, peak {ours['peak_bytes'] / 2**30:.2f} / "
            f"{plain['peak_bytes'] / 2**30:.2f} GiB, first losses {ours['loss']} / {plain['loss']}",
            flush=True,
        )
    median = statistics.median(ratios)
    print(
        f"step time, ours over plain TRL, identical settings: median {median:.3f} "
        f"(min {min(ratios):.3f}, max {max(ratios):.3f}); {os.cpu_count()} cores, {date.today()}"
    )
    return 0 if median <= 1.03 else 1


if __name__ == "__main__":
    sys.exit(main())
