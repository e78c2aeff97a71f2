"""What one front withstands: large bodies, clients that read nothing, and idle connections."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.serving.client import Pool, request
from benchmarks.serving.front import NAME, Bench, bench

BODY_BYTES = 1_000_000
PER_ADDRESS = 256
MOST_SECONDS = 150.0
KEYS = ("a", "b", "c", "d")
OTHERS = "127.0.0.200"
KEYED: dict[str, Any] = {"access": {"keysFrom": {"secretRef": {"name": "mine"}}}}


def _filled(field: str, piece: str, *, begin: str = "[", end: str = "]") -> str:
    """Return a body of 1 MB with a field that has so many pieces."""
    start = json.dumps({"model": NAME, "user": "slow", "messages": []})[:-1]
    if field == "messages":
        start = json.dumps({"model": NAME, "user": "slow"})[:-1]
    num = (BODY_BYTES - len(start) - 40) // (len(piece) + 1)
    return f'{start}, "{field}": {begin}{",".join([piece] * num)}{end}}}'


BODIES: dict[str, Callable[[], str]] = {
    "empty lists in a field that is not supported": lambda: _filled("x", "[]"),
    "empty lists in `tools`": lambda: _filled("tools", "[]"),
    "empty objects in `messages`": lambda: _filled("messages", "{}"),
    "numbers that are written longer": lambda: _filled("prompt", "1e15"),
    "one long text": lambda: _filled(
        "messages", "x" * 99, begin='[{"role": "user", "content": "', end='"}]'
    ),
}


async def bodies(count: int) -> None:
    """Send bodies of 1 MB at once with four keys, each kind to a fresh front; answers take 10 s."""
    print("| body of 1 MB | 200 | 400 | 503 | other | MiB before | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for kind, make in BODIES.items():
        with bench() as made:
            _make_keys(made)
            made.follow(1, **KEYED)
            await made.settle(1)
            before, body = made.resident_mib(), make().encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}"
            sent = head.encode() + b"\r\n\r\n" + body
            asked = (_status_of(made.port, _with_key(sent, KEYS[n % 4])) for n in range(count))
            found = Counter(await asyncio.gather(*asked))
            known = [found.pop(status, 0) for status in (200, 400, 503)]
            numbers = " | ".join(map(str, [*known, found.total()]))
            print(f"| {kind} | {numbers} | {before:.0f} | {made.peak_mib():.0f} |", flush=True)


async def _status_of(port: int, sent: bytes, *, address: str = "127.0.0.1") -> int:
    """Send a request and return the status of its answer; 0 if the connection broke."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        try:
            writer.write(sent)
            return int((await reader.readuntil(b"\r\n\r\n")).split()[1])
        finally:
            writer.close()
    except (OSError, asyncio.IncompleteReadError):
        return 0


def _make_keys(made: Bench) -> None:
    folder = made.folder / "keys" / "mine"
    folder.mkdir(parents=True)
    for key in KEYS:
        (folder / key).write_text(f"sha256:{hashlib.sha256(key.encode()).hexdigest()}\n")


async def stalled(count: int) -> None:
    """Ask for endless streams and read nothing of them."""
    with bench() as made:
        _make_keys(made)
        made.follow(1, **KEYED)
        await made.settle(1)
        clients = [_stall(made.port, KEYS[n % 3], n) for n in range(count)]
        begin, pool, served = time.perf_counter(), Pool(made.port), Counter[int]()
        most = held = 0
        while time.perf_counter() - begin < MOST_SECONDS:
            asked = _with_key(request(NAME, user="u", is_stream=True), KEYS[3])
            served[(await pool.ask(asked, 0.0)).status] += 1
            held = _num_open(made.port) - 1
            most = max(most, held)
            if most and held <= 0:
                break
            await asyncio.sleep(1.0)
        seconds = time.perf_counter() - begin
        pool.close()
        for each in clients:
            each.close()
        print(f"{count} clients that read nothing of an endless stream: {most} held at most,")
        print(f"{max(0, held)} after {seconds:.0f} s; peak {made.peak_mib():.0f} MiB")
        print(f"answers to others in this time, by status: {dict(served)}")


def _stall(port: int, key: str, number: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(_with_key(request(NAME, user=f"endless{number}", is_stream=True), key))
    return client


def _with_key(sent: bytes, key: str) -> bytes:
    return sent.replace(b"Host: a\r\n", f"Host: a\r\nAuthorization: Bearer {key}\r\n".encode(), 1)


def _num_open(port: int, address: str | None = None) -> int:
    """Return how many connections to a port the kernel holds open for its process."""
    wanted, num = f":{port:04X}", 0
    peer = "" if address is None else socket.inet_aton(address)[::-1].hex().upper()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        # Established, or closed by the client alone.
        num += local.endswith(wanted) and remote.startswith(peer) and state in ("01", "08")
    return num


async def idle(count: int) -> None:
    """Hold idle connections, from as many addresses as that takes, and ask from another one."""
    needed = 2 * count + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    with bench() as made:
        made.follow(1)
        await made.settle(1)
        held: list[asyncio.StreamWriter] = []
        begin = time.perf_counter()
        for number in range(count):
            held.append(await _hold(made, f"127.0.1.{1 + number // PER_ADDRESS}"))
        filled = time.perf_counter() - begin
        num = _num_open(made.port)
        statuses = Counter[int]()
        for _ in range(20):
            statuses[await _ask_from(made, OTHERS)] += 1
        print(f"{num} connections held idle after {filled:.0f} s, {made.resident_mib():.0f} MiB")
        print(f"20 new clients of another address, by status: {dict(statuses)}")
        greedy = "127.0.2.1"
        for _ in range(2 * PER_ADDRESS):
            held.append(await _hold(made, greedy))
        await asyncio.sleep(1.5)
        held.append(await _hold(made, greedy))
        await asyncio.sleep(0.5)
        num = _num_open(made.port, greedy)
        print(f"{2 * PER_ADDRESS + 1} connections of one address without a key: {num} are open")
        for each in held:
            each.transport.abort()


async def _hold(made: Bench, address: str) -> asyncio.StreamWriter:
    """Ask once, and keep the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", made.port, local_addr=(address, 0))
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    return writer


async def _ask_from(made: Bench, address: str) -> int:
    return await _status_of(made.port, request(NAME, user="u", is_stream=False), address=address)
