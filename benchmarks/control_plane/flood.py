"""Junk tokens at the progress endpoint: ``python benchmarks/control_plane/run.py flood``.

Two pods push as trainers do. A third sends forged tokens, each with a new signature and otherwise
what its own token says, from a process of its own. What must not suffer is the operator's Lease,
whose renewals are read off the API server's audit log, and the pushes of the other two.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from datetime import datetime
from itertools import pairwise
from typing import Any

NUM_CONNECTIONS = 512
"""More than the endpoint holds back refusals for: a forger that knows it."""


class Forger(asyncio.Protocol):
    """One connection that has one request under way at a time."""

    def __init__(self, free: deque[Forger], answers: Counter[str]) -> None:
        self._free = free
        self._answers = answers
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready to send."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._free.append(self)

    def data_received(self, data: bytes) -> None:
        """Count an answer, and be ready again; its body may come apart."""
        if data.startswith(b"HTTP/"):
            self._answers[data[9:12].decode()] += 1
            self._free.append(self)


async def send_junk(port: int, path: str, token: str, *, rate: float, seconds: float) -> str:
    """Send forged tokens at a rate; return how many were answered, and with what.

    Whichever connection is free takes the next: those that are held back do not lower the rate.
    """
    head, payload, signature = token.split(".")
    start = f"POST {path} HTTP/1.1\r\nHost: operator\r\nContent-Length: 2\r\n"
    start += f"Authorization: Bearer {head}.{payload}.{signature[:-12]}"
    free: deque[Forger] = deque()
    answers: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    for _ in range(NUM_CONNECTIONS):
        await loop.create_connection(lambda: Forger(free, answers), "127.0.0.1", port)
    begin, sent = time.monotonic(), 0
    while (elapsed := time.monotonic() - begin) < seconds:
        for _ in range(min(int(rate * elapsed) - sent, len(free))):
            sent += 1
            transport = free.popleft().transport
            assert transport is not None
            transport.write(f"{start}{sent:012x}\r\n\r\n{{}}".encode())
        await asyncio.sleep(0.002)
    return " ".join(f"{code}={count}" for code, count in sorted(answers.items()))


async def start_forger(
    port: int, path: str, token: str, *, rate: float, seconds: float
) -> asyncio.subprocess.Process:
    """Send from another process, so that pushes are not measured in the forger's own queue."""
    command = [sys.executable, __file__, str(port), path, str(rate), str(seconds)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(token.encode())
    process.stdin.close()
    return process


def longest_gap(entries: list[dict[str, Any]]) -> float:
    """Return the longest time between two renewals of the Lease, in seconds; inf if there is none.

    Args:
        entries: Of the operator in the audit log.
    """
    moments = sorted(
        datetime.fromisoformat(entry["stageTimestamp"]).timestamp()
        for entry in entries
        if entry["objectRef"]["resource"] == "leases"
        and entry["verb"] == "update"
        and entry.get("responseStatus", {}).get("code") == 200
    )
    return max((after - before for before, after in pairwise(moments)), default=float("inf"))


def main() -> None:
    """Be the forger; the token comes on standard input."""
    port, path, rate, seconds = sys.argv[1:]
    token = sys.stdin.read().strip()
    print(asyncio.run(send_junk(int(port), path, token, rate=float(rate), seconds=float(seconds))))


if __name__ == "__main__":
    main()
