"""Junk tokens at the progress endpoint: ``python benchmarks/control_plane/run.py flood``.

Two pods push as trainers do. A third sends forged tokens, each with a new signature and otherwise
what its own token says, from processes and an address of its own. It waits for no answer, and opens
anew what is closed to it. What must not suffer is the operator's Lease,
whose renewals are read off the API server's audit log, and the pushes of the other two.

``python benchmarks/control_plane/flood.py`` sends to a server that refuses at once and says how
many tokens per second the forger offers where nothing but this machine bounds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter, deque
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

NUM_CONNECTIONS = 2048
"""More than the endpoint keeps open: a forger that knows it."""
ADDRESS = "127.0.0.2"
NUM_PROCESSES = 4
"""One process alone sends some 2,000 requests per second where a call of ``send`` is dear."""
TURN_SECONDS = 0.002
RECONNECT_SECONDS = 1.0
ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What became of a flood.

    Attributes:
        offered: Tokens that were handed to the kernel.
        held: Tokens that were due and not sent, for there was no connection that took them.
        answers: Answers by HTTP status.
        closed: Connections that the other side closed.
    """

    offered: int
    held: int
    answers: dict[str, int]
    closed: int


class Forgers:
    """Connections of one process to one port, all of which send.

    Args:
        port: Where to.
        count: How many are kept open.
    """

    def __init__(self, port: int, count: int) -> None:
        self.answers: Counter[str] = Counter()
        self.num_closed = 0
        self._port = port
        self._count = count
        self._open: deque[asyncio.Transport] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """Open all connections."""
        for _ in range(self._count):
            await self._connect()

    def send(self, request: bytes) -> bool:
        """Send on the connection that has not sent for longest; return whether one took it."""
        for _ in range(len(self._open)):
            transport = self._open[0]
            self._open.rotate(-1)
            if not transport.get_write_buffer_size():
                transport.write(request)
                return True
        return False

    def opened(self, transport: asyncio.Transport) -> None:
        """Use a connection from now on."""
        self._open.append(transport)

    def closed(self, transport: asyncio.Transport) -> None:
        """Open another instead of a connection."""
        self.num_closed += 1
        with contextlib.suppress(ValueError):
            self._open.remove(transport)
        task = asyncio.create_task(self._connect_again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_again(self) -> None:
        await asyncio.sleep(RECONNECT_SECONDS)
        await self._connect()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        local = (ADDRESS, 0)
        with contextlib.suppress(OSError):
            await loop.create_connection(
                lambda: Forger(self), "127.0.0.1", self._port, local_addr=local
            )


class Forger(asyncio.Protocol):
    """One connection."""

    def __init__(self, forgers: Forgers) -> None:
        self._forgers = forgers
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready to send."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._forgers.opened(transport)

    def data_received(self, data: bytes) -> None:
        """Count answers; one that comes apart in its first line is not counted."""
        self._forgers.answers.update(code.decode() for code in ANSWER.findall(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the connection is gone."""
        assert self._transport is not None
        self._forgers.closed(self._transport)


def forge(path: str, token: str, *, count: int, maker: int) -> list[bytes]:
    """Return whole requests, no two of them, or of two makers, with the same token."""
    head, payload, signature = token.split(".")
    start = f"POST {path} HTTP/1.1\r\nHost: operator\r\nContent-Length: 2\r\n"
    start += f"Authorization: Bearer {head}.{payload}.{signature[:-12]}"
    return [f"{start}{maker:03x}{n:09x}\r\n\r\n{{}}".encode() for n in range(count)]


async def send_junk(
    port: int, requests: list[bytes], *, num_connections: int, seconds: float
) -> Sent:
    """Send requests in even steps; return what became of them."""
    forgers = Forgers(port, num_connections)
    await forgers.connect()
    await _wait_for_others()
    begin, sent, due = time.monotonic(), 0, 0
    while (elapsed := time.monotonic() - begin) < seconds:
        due = int(len(requests) * elapsed / seconds)
        while sent < due and forgers.send(requests[sent]):
            sent += 1
        await asyncio.sleep(TURN_SECONDS)
    answers = dict(forgers.answers)
    return Sent(offered=sent, held=due - sent, answers=answers, closed=forgers.num_closed)


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
        closed=sum(part.closed for part in parts),
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
    print(json.dumps(asdict(sent)))


if __name__ == "__main__":
    main()
