"""Junk tokens at the progress endpoint: ``python benchmarks/control_plane/run.py flood``.

Two pods push as trainers do. A third sends forged tokens, each with a new signature and otherwise
what its own token says, from processes of its own. What must not suffer is the operator's Lease,
whose renewals are read off the API server's audit log, and the pushes of the other two.

``python benchmarks/control_plane/flood.py`` sends to a server that refuses at once and says how
many tokens per second the forger offers where nothing but this machine bounds it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter, deque
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

NUM_CONNECTIONS = 512
"""More than the endpoint holds back refusals for: a forger that knows it."""
NUM_PROCESSES = 4
"""One process alone sends some 2,000 requests per second where a call of ``send`` is dear."""
TURN_SECONDS = 0.002


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What became of a flood.

    Attributes:
        offered: Tokens that were sent.
        held: Tokens that were due and not sent, for every connection waited for an answer.
        answers: Answers by HTTP status.
    """

    offered: int
    held: int
    answers: dict[str, int]


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


def forge(path: str, token: str, *, count: int, maker: int) -> list[bytes]:
    """Return whole requests, no two of them, or of two makers, with the same token."""
    head, payload, signature = token.split(".")
    start = f"POST {path} HTTP/1.1\r\nHost: operator\r\nContent-Length: 2\r\n"
    start += f"Authorization: Bearer {head}.{payload}.{signature[:-12]}"
    return [f"{start}{maker:03x}{n:09x}\r\n\r\n{{}}".encode() for n in range(count)]


async def send_junk(
    port: int, requests: list[bytes], *, num_connections: int, seconds: float
) -> Sent:
    """Send requests in even steps; return what became of them.

    Whichever connection is free takes the next: those that are held back do not lower the rate.
    """
    free: deque[Forger] = deque()
    answers: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    for _ in range(num_connections):
        await loop.create_connection(lambda: Forger(free, answers), "127.0.0.1", port)
    await _wait_for_others()
    begin, sent, due = time.monotonic(), 0, 0
    while (elapsed := time.monotonic() - begin) < seconds:
        due = int(len(requests) * elapsed / seconds)
        for request in requests[sent : min(due, sent + len(free))]:
            transport = free.popleft().transport
            assert transport is not None
            transport.write(request)
            sent += 1
        await asyncio.sleep(TURN_SECONDS)
    return Sent(offered=sent, held=due - sent, answers=dict(answers))


async def _wait_for_others() -> None:
    """Say that everything is ready, and wait until it is so everywhere."""
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def run_forgers(port: int, path: str, token: str, *, rate: float, seconds: float) -> Sent:
    """Send forged tokens at a rate, from processes that do not measure their own queue."""
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, str(port), path, str(rate / NUM_PROCESSES), str(seconds)),
            str(number),
            stdin=PIPE,
            stdout=PIPE,
        )
        for number in range(NUM_PROCESSES)
    ]
    for process in processes:
        _tell(process, token)
    for process in processes:
        assert process.stdout is not None
        await process.stdout.readline()
    for process in processes:
        _tell(process, "go")
    said = [await process.communicate() for process in processes]
    parts = [Sent(**json.loads(out)) for out, _ in said]
    answers: Counter[str] = Counter()
    for part in parts:
        answers.update(part.answers)
    return Sent(
        offered=sum(part.offered for part in parts),
        held=sum(part.held for part in parts),
        answers=dict(sorted(answers.items())),
    )


def _tell(process: Process, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n".encode())


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


async def measure_forgers(rate: float, seconds: float) -> Sent:
    """Return what the forgers offer to a server that does nothing but refuse."""
    server = await asyncio.start_server(_refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await run_forgers(port, "/", "e30.e30." + 342 * "x", rate=rate, seconds=seconds)


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    writer.close()


def main() -> None:
    """Be one of the forgers, the token on standard input; without arguments, measure them."""
    if not sys.argv[1:]:
        print(asyncio.run(measure_forgers(4000.0, 5.0)))
        return
    port, path, rate, seconds, number = sys.argv[1:]
    token = sys.stdin.readline().strip()
    count = int(float(rate) * float(seconds))
    requests = forge(path, token, count=count, maker=int(number))
    sending = send_junk(
        int(port),
        requests,
        num_connections=NUM_CONNECTIONS // NUM_PROCESSES,
        seconds=float(seconds),
    )
    sent = asyncio.run(sending)
    print(json.dumps({"offered": sent.offered, "held": sent.held, "answers": sent.answers}))


if __name__ == "__main__":
    main()
