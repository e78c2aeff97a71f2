"""What the front costs, and what it withstands.

``python -m benchmarks.serving [overhead|capture|throughput|memory|switches|bodies ...]``; all by
default.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from benchmarks.serving import front
from benchmarks.serving.abuse import bodies, idle, stalled
from benchmarks.serving.drains import switches

PARTS: dict[str, tuple[Callable[[int], Awaitable[None]], int]] = {
    "overhead": (front.overhead, 6000),
    "capture": (front.capture, 6000),
    "throughput": (front.throughput, 5000),
    "memory": (front.memory, 50_000),
    "switches": (switches, 20_000),
    "bodies": (bodies, 200),
    "stalled": (stalled, 300),
    "idle": (idle, 4096),
}


def main() -> None:
    """Run the parts that were named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the requests")
    parser.add_argument("--rate", type=float, default=front.RATE, help="requests a second")
    arguments = parser.parse_args()
    front.RATE = arguments.rate
    for name in arguments.parts or PARTS:
        part, count = PARTS[name]
        print(f"\n## {name}\n", flush=True)
        asyncio.run(part(int(count * arguments.scale)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
