"""Junk tokens at the progress endpoint: ``python benchmarks/control_plane/run.py flood``.

Two pods push as trainers do. A third sends forged tokens, each with a new signature and otherwise
what its own token says, from a process of its own. What must not suffer is the operator's Lease,
whose renewals are read off the API server's audit log, and the pushes of the other two.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import time
from collections import Counter
from datetime import datetime
from itertools import count, pairwise
from typing import Any

NUM_CONNECTIONS = 512
"""More than the endpoint holds back refusals for: a forger that knows it."""


async def send_junk(url_port: int, path: str, token: str, *, rate: float, seconds: float) -> str:
    """Send forged tokens at a rate; return how many were answered, and with what."""
    head, payload, _ = token.split(".")
    start = f"POST {path} HTTP/1.1\r\nHost: operator\r\nContent-Length: 2\r\n".encode()
    answers: Counter[str] = Counter()
    begin = time.monotonic()
    end = begin + seconds
    # Whichever connection is free takes the next: those held back do not lower the rate.
    slots = count(begin, 1.0 / rate)

    async def forge() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", url_port)
        while (due := next(slots)) < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            forged = base64.urlsafe_b64encode(os.urandom(255)).decode()
            bearer = f"Authorization: Bearer {head}.{payload}.{forged}\r\n\r\n{{}}"
            writer.write(start + bearer.encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            length = answer.lower().partition(b"content-length: ")[2].split(b"\r")[0]
            await reader.readexactly(int(length or 0))
            answers[answer[9:12].decode()] += 1
        writer.close()

    await asyncio.gather(*(forge() for _ in range(NUM_CONNECTIONS)))
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
