"""Requests over switches and drains, with two fronts and the agents of two servers.

Each pod is a process. Connections reach pods through a balancer that stands for a Service: each
goes to the next pod, and a pod that ends is left out a second later.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from benchmarks.serving.client import Answered, Pool, request
from benchmarks.serving.front import FRONT, NAME, Bench, port_of, ports_of, start, start_engine

NUM_CLIENTS = 40
THINK_SECONDS = 0.3
"""A client waits up to so long between two requests, so that connections fall idle."""
NUM_LONG = 8
"""Answers of 20 s that are begun at each drain."""
SPREAD_SECONDS = 1.0
"""Until all nodes know that a pod ends."""
NUM_USERS = 500


class _Side(asyncio.Protocol):
    """One of two connections whose bytes pass on to the other."""

    def __init__(self, other: _Side | None = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class _Accepted(_Side):
    """The connection of a client."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self._task = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        assert self.transport is not None
        side = self.other = _Side(self)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: side, "127.0.0.1", self._service.next_port()
            )
        except OSError:
            self.transport.abort()
        else:
            self.transport.resume_reading()


@dataclass
class Pod:
    """A process with its ports."""

    process: subprocess.Popen[str]
    port: int
    report_port: int


@dataclass
class Service:
    """Pods that are made by one command, behind one port."""

    command: Sequence[str]
    folder: Path
    port: int = 0
    pods: list[Pod] = field(default_factory=list)
    ended: list[tuple[float, int]] = field(default_factory=list)
    """Seconds that pods took to end, and their exit codes."""
    _all: list[subprocess.Popen[str]] = field(default_factory=list)
    _ports: list[int] = field(default_factory=list)
    _turn: itertools.count[int] = field(default_factory=itertools.count)
    _ends: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self, num_pods: int) -> None:
        """Start pods and the port before them."""
        server = await asyncio.get_running_loop().create_server(
            lambda: _Accepted(self), "127.0.0.1", 0, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        for _ in range(num_pods):
            await self.add()

    def next_port(self) -> int:
        return self._ports[next(self._turn) % len(self._ports)]

    async def add(self) -> None:
        """Start a pod; it gets connections once it is ready."""
        log = self.folder / f"{self.port}-{len(self._all)}.log"
        process = start(self.command, self.folder, log)
        self._all.append(process)
        pod = Pod(process, *await asyncio.to_thread(ports_of, process, log))
        url = f"http://127.0.0.1:{pod.report_port}/readyz"
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        break
                await asyncio.sleep(0.05)
        self.pods.append(pod)
        self._ports.append(pod.port)

    async def drain(self) -> None:
        """Replace the oldest pod by a new one."""
        await self.add()
        pod = self.pods.pop(0)
        pod.process.send_signal(signal.SIGTERM)
        begin = time.perf_counter()
        await asyncio.sleep(SPREAD_SECONDS)
        self._ports.remove(pod.port)
        self._ends.add(asyncio.create_task(self._await_end(pod, begin)))

    async def _await_end(self, pod: Pod, begin: float) -> None:
        while (code := pod.process.poll()) is None:
            await asyncio.sleep(0.1)
        self.ended.append((time.perf_counter() - begin, code))

    async def settled(self) -> None:
        """Wait until all pods that drain have ended."""
        await asyncio.gather(*self._ends)

    def kill(self) -> None:
        for process in self._all:
            process.kill()
            process.communicate()


@asynccontextmanager
async def cluster() -> AsyncIterator[tuple[Service, list[Service]]]:
    """Run two fronts before two servers, each with an agent before its engine."""
    engines = [start_engine(), start_engine()]
    services: list[Service] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "endpoints.json").write_text("[]")
        (folder / "token").write_text("token-of-the-benchmark")
        try:
            for engine in engines:
                command = ("benchmarks.serving.agent", str(port_of(engine)))
                services.append(Service(command, folder))
                await services[-1].listen(1)
            fronts = Service(FRONT, folder)
            services.append(fronts)
            await fronts.listen(2)
            yield fronts, services[:2]
        finally:
            for service in services:
                service.kill()
            for engine in engines:
                engine.kill()
                engine.communicate()


class Load:
    """Clients that ask, wait a moment and ask again, every other time for a stream.

    They make at least so many requests, and go on until they may end.
    """

    def __init__(self, port: int, count: int) -> None:
        self._pool = Pool(port)
        self._numbers = itertools.count()
        self._count = count
        self.num_done = 0
        self.may_end = False
        self.failed = Counter[str]()
        self.wrong = Counter[str]()
        self.by_version = Counter[str]()
        self.by_user: dict[tuple[int, str], set[str]] = {}
        self.allowed = {"1"}
        self.period = 0
        self.is_settled = True

    async def run(self) -> None:
        await asyncio.gather(*(self._client(random.Random(n)) for n in range(NUM_CLIENTS)))
        self._pool.close()

    async def until(self, share: float) -> None:
        while self.num_done < share * self._count:
            await asyncio.sleep(0.05)

    async def ask_long(self, number: int) -> None:
        answered = await self._ask(f"long{number}", is_stream=True)
        if not answered.is_whole:
            self.failed["long"] += 1

    async def _ask(self, user: str, *, is_stream: bool) -> Answered:
        return await self._pool.ask(request(NAME, user=user, is_stream=is_stream), 0.0)

    async def _client(self, draws: random.Random) -> None:
        for number in self._numbers:
            if self.may_end and number >= self._count:
                return
            await asyncio.sleep(draws.random() * THINK_SECONDS)
            begun, before, user = self.period, set(self.allowed), f"u{number % NUM_USERS}"
            is_stream = number % 2 == 1
            answered = await self._ask(user, is_stream=is_stream)
            self.num_done += 1
            if not answered.is_whole:
                self.failed["streamed" if is_stream else "plain"] += 1
                continue
            self.by_version[answered.version] += 1
            if answered.version not in before | self.allowed:
                self.wrong[answered.version] += 1
            if f"-v{answered.version}".encode() not in answered.body:
                self.wrong["another version's answer"] += 1
            if begun == self.period and self.is_settled:
                self.by_user.setdefault((begun, user), set()).add(answered.version)


async def switches(count: int) -> None:
    """Ask over two switches, one rollback, and drains of both fronts and of both agents."""
    async with cluster() as (fronts, agents):
        ports = [agent.port for agent in agents]

        def benches() -> list[Bench]:
            pods = fronts.pods
            return [Bench(fronts.folder, ports, 0, each.port, each.report_port) for each in pods]

        async def follow(versions: Sequence[int], weight: int, rollout: str) -> None:
            load.is_settled, then = False, {str(version) for version in versions}
            load.allowed = load.allowed | then
            benches()[0].follow(*versions, weight=weight, rollout=rollout)
            for each in benches():
                await each.settle(*versions)
            load.period += 1
            # Requests under way may still end at the version that they began with.
            await asyncio.sleep(0.3)
            load.allowed, load.is_settled = then, True

        async def drain(service: Service) -> None:
            long.extend(asyncio.create_task(load.ask_long(n)) for n in range(NUM_LONG))
            await asyncio.sleep(0.5)
            await service.drain()

        long: list[asyncio.Task[None]] = []
        load = Load(fronts.port, count)
        await follow((1,), 0, "")
        plan: list[Callable[[], Awaitable[None]]] = [
            lambda: drain(fronts),
            lambda: follow((1, 2), 25, "r1"),
            lambda: drain(agents[1]),
            lambda: follow((2,), 0, ""),
            lambda: follow((2, 3), 50, "r2"),
            lambda: drain(fronts),
            lambda: follow((3,), 0, ""),
            lambda: follow((3, 4), 25, "r3"),
            lambda: drain(agents[0]),
            lambda: follow((3,), 0, ""),
        ]
        begin = time.perf_counter()
        asking = asyncio.create_task(load.run())
        for number, step in enumerate(plan, start=1):
            await load.until(number / (len(plan) + 1))
            await step()
        load.may_end = True
        await asking
        seconds = time.perf_counter() - begin
        await asyncio.gather(*long)
        with suppress(TimeoutError):
            async with asyncio.timeout(150):
                await asyncio.gather(*(each.settled() for each in (fronts, *agents)))
        ended = [*fronts.ended, *agents[0].ended, *agents[1].ended]
    torn = sum(len(versions) > 1 for versions in load.by_user.values())
    num = load.num_done
    print(f"{num} requests, half of them streamed, {num / seconds:.0f} a second,")
    print(f"and {len(long)} answers of 20 s, over 2 switches, 1 rollback and {len(ended)} drains")
    print(f"failed: {load.failed.total()} {dict(load.failed)}")
    print(f"by a version not in rotation: {load.wrong.total()} {dict(load.wrong)}")
    print(f"users in a period: {len(load.by_user)}, with more than one version: {torn}")
    print(f"answers by version: {dict(sorted(load.by_version.items()))}")
    for taken, code in ended:
        print(f"a drained pod ended after {taken:.0f} s with exit code {code}")
