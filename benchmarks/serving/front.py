"""The front's cost beside asking the engine directly, and its memory over many requests.

Front, engine and client are three processes. CPU time of the front is read from the kernel, so that
requests per second of one core do not depend on what else runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from benchmarks.serving.client import Answered, Pool, request

from finetune_trainer.serve.handover import SOCKET

NAME = "headline"
KEPT = "kept"
"""The endpoint whose answers are captured."""
RATE = 200.0
TICKS = os.sysconf("SC_CLK_TCK")
_LISTENING = re.compile(r"listening on ports (\d+) and (\d+)")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Bench:
    """The processes of one measurement."""

    folder: Path
    engine_ports: list[int]
    pid: int
    port: int
    report_port: int
    recorder_pid: int = 0
    """0 without a recorder. With one, all answers of a second endpoint are captured."""

    def follow(
        self,
        active: int,
        candidate: int | None = None,
        *,
        weight: int = 0,
        rollout: str = "",
        **spec: Any,
    ) -> None:
        """Put versions into rotation, as the operator's status does."""
        status: dict[str, Any] = {"active": self._served(active)}
        if candidate is not None:
            more = {"weight": weight, "rolloutId": rollout, "verifiedTime": "now"}
            status["candidate"] = {**self._served(candidate), **more}
        metadata = {"name": NAME, "namespace": "team-a", "uid": "1"}
        spec["jobRef"] = {"name": NAME}
        endpoints: list[dict[str, Any]] = [{"metadata": metadata, "spec": spec, "status": status}]
        if self.recorder_pid:
            uri = (self.folder / "storage").as_uri()
            kept = {"include": "All", "sample": "1", "uri": uri, "openToAll": True}
            more = {"metadata": {**metadata, "name": KEPT}, "spec": {**spec, "capture": kept}}
            endpoints.append({**endpoints[0], **more})
        (self.folder / "new.json").write_text(json.dumps(endpoints))
        (self.folder / "new.json").rename(self.folder / "endpoints.json")

    def _served(self, version: int) -> dict[str, Any]:
        adapter = f"team-a.{NAME}-v{version}"
        port = self.engine_ports[version % len(self.engine_ports)]
        return {"version": version, "adapter": adapter, "server": str(port)}

    async def settle(self, active: int, candidate: int | None = None) -> None:
        """Wait until the front follows."""
        wanted = (_adapter(active), None if candidate is None else _adapter(candidate))
        while await self._routed() != wanted:
            await asyncio.sleep(0.02)

    async def _routed(self) -> tuple[str | None, str | None]:
        found = await self.report()
        return (found["active"], found["candidate"]) if found else (None, None)

    async def report(self) -> dict[str, Any]:
        """Return what the front reports of the endpoint."""
        url = f"http://127.0.0.1:{self.report_port}/report"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            endpoints = (await answer.json())["endpoints"]
        return endpoints[0] if endpoints else {}

    async def num_dropped(self) -> int:
        """Return how many answers the front could not hand over."""
        url = f"http://127.0.0.1:{self.report_port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        found = re.findall(r"finetune_front_capture_dropped_total{.*} (.*)", text)
        return int(sum(map(float, found)))

    def cpu_seconds(self, pid: int | None = None) -> float:
        """CPU time so far of a process; by default the front's."""
        fields = Path(f"/proc/{pid or self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_mib(self) -> float:
        """Resident memory of the front's process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * PAGE_BYTES / 2**20

    def peak_mib(self) -> float:
        """Most resident memory that the front's process has had."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024


def _adapter(version: int) -> str:
    return f"team-a.{NAME}-v{version}"


@contextmanager
def bench(num_engines: int = 1, *, records: bool = False) -> Iterator[Bench]:
    """Run engines, a front and, if asked, a recorder beside it."""
    engines = [start_engine() for _ in range(num_engines)]
    processes: list[subprocess.Popen[str]] = [*engines]
    try:
        ports = [port_of(engine) for engine in engines]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "endpoints.json").write_text("[]")
            (folder / "token").write_text("token-of-the-benchmark")
            recorder = start(RECORDER, folder, folder / "recorder.log") if records else None
            if recorder is not None:
                processes.append(recorder)
                ports_of(recorder, folder / "recorder.log")
            front = start(FRONT, folder, folder / "front.log")
            processes.append(front)
            public, private = ports_of(front, folder / "front.log")
            pid = 0 if recorder is None else recorder.pid
            yield Bench(folder, ports, front.pid, public, private, recorder_pid=pid)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def start_engine() -> subprocess.Popen[str]:
    """Start an engine."""
    command = [sys.executable, "-m", "benchmarks.serving.upstream"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def port_of(engine: subprocess.Popen[str]) -> int:
    """Return the port of an engine."""
    assert engine.stdout is not None
    return int(engine.stdout.readline())


_SERVE = ("finetune_trainer.serve",)
_ADDRESS = ("--host", "127.0.0.1", "--report-port", "0")
FRONT = (*_SERVE, "front", *_ADDRESS, "--port", "0")
RECORDER = (*_SERVE, "recorder", *_ADDRESS)


def start(command: Sequence[str], folder: Path, log: Path) -> subprocess.Popen[str]:
    """Start a module with its arguments. Its files are in ``folder``."""
    environment = {
        **os.environ,
        "FINETUNE_ENDPOINTS": (folder / "endpoints.json").as_uri(),
        "FINETUNE_SERVER_URL": "http://127.0.0.1:{server}",
        "FINETUNE_TOKEN_FILE": str(folder / "token"),
        "FINETUNE_KEYS_DIR": str(folder / "keys"),
        "FINETUNE_SPOOL_DIR": str(folder / "spool"),
        "FINETUNE_GRACE_SECONDS": "125",
        SOCKET: str(folder / "recorder.sock"),
    }
    # What it says goes to a file: a pipe that nobody reads would stop it.
    with log.open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stderr=said, text=True
        )


def ports_of(process: subprocess.Popen[str], log: Path) -> tuple[int, int]:
    """Wait until a process listens, and return its ports."""
    while (found := _LISTENING.search(log.read_text())) is None:
        if process.poll() is not None:
            raise RuntimeError("it ended: " + log.read_text())
        time.sleep(0.05)
    return int(found.group(1)), int(found.group(2))


async def paced(count: int, rate: float, ask: Callable[[int, float], Awaitable[Any]]) -> list[Any]:
    """Begin so many requests at a steady rate, whether or not earlier ones have ended."""
    begin = time.perf_counter() + 0.1
    tasks: list[asyncio.Task[Any]] = []
    for number in range(count):
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(number, due)))  # type: ignore[arg-type]
    return list(await asyncio.gather(*tasks))


async def closed(count: int, num_clients: int, ask: Callable[[int], Awaitable[Any]]) -> None:
    """Make so many requests, each client one after another."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await ask(number)

    await asyncio.gather(*(client() for _ in range(num_clients)))


async def overhead(count: int) -> None:
    """Ask engine and front by turns at a steady rate each, and compare."""
    with bench() as made:
        made.follow(1)
        await made.settle(1)
        pools = [Pool(made.engine_ports[0]), Pool(made.port)]
        names = [_adapter(1), NAME]

        async def ask(number: int, due: float) -> Answered:
            which = number % 2
            sent = request(names[which], user=f"u{number}", is_stream=number % 4 >= 2)
            return await pools[which].ask(sent, due)

        await paced(400, 2 * RATE, ask)
        found = await paced(2 * count, 2 * RATE, ask)
        for pool in pools:
            pool.close()
    _compare(found, "engine", "front")


def _compare(found: list[Answered], first: str, second: str) -> None:
    """Print quantiles of answers that came by turns from two places."""
    print("| answers | asked | p50 ms | p90 ms | p99 ms |\n|---|---|---|---|---|")
    for kind, remainder in (("plain", 0), ("streamed", 2)):
        sides = [found[remainder::4], found[remainder + 1 :: 4]]
        broken = [each for side in sides for each in side if not each.is_whole]
        assert not broken, f"{len(broken)} answers are not whole, such as {broken[0]}"
        lines = [[1e3 * _quantile(side, q) for q in (0.5, 0.9, 0.99)] for side in sides]
        for name, line in zip((first, second), lines, strict=True):
            print(f"| {kind} | {name} | " + " | ".join(f"{value:.2f}" for value in line) + " |")
        more = [after - before for before, after in zip(*lines, strict=True)]
        print(f"| {kind} | overhead | " + " | ".join(f"{value:.2f}" for value in more) + " |")


async def capture(count: int) -> None:
    """Ask two endpoints by turns at a steady rate each, of which one captures all answers."""
    with bench(records=True) as made:
        made.follow(1)
        await made.settle(1)
        pool = Pool(made.port)

        async def ask(number: int, due: float = 0.0) -> Answered:
            name = KEPT if number % 2 else NAME
            sent = request(name, user=f"u{number}", is_stream=number % 4 >= 2)
            return await pool.ask(sent, due)

        await paced(400, 2 * RATE, ask)
        _compare(await paced(2 * count, 2 * RATE, ask), "not captured", "captured")
        spent: list[float] = []
        for place in (0, 1):
            cpu = made.cpu_seconds()

            async def ask_one(number: int, place: int = place) -> Answered:
                return await ask(2 * number + place)

            await closed(count, 8, ask_one)
            await asyncio.sleep(1.0)  # what waits is handed over
            spent.append(made.cpu_seconds() - cpu)
        pool.close()
        dropped = await made.num_dropped()
        recorder = made.cpu_seconds(made.recorder_pid)
    print(f"CPU of the front for {count} requests: {spent[0]:.2f} s, captured {spent[1]:.2f} s")
    print(f"that is {100 * (spent[1] / spent[0] - 1):.1f} % more")
    print(f"CPU of the recorder for {2 * count + 200 - dropped} answers: {recorder:.1f} s")
    print(f"dropped, because they came faster than the recorder takes them: {dropped}")


def _quantile(answers: list[Answered], share: float) -> float:
    seconds = sorted(each.seconds for each in answers)
    return seconds[min(len(seconds) - 1, int(share * len(seconds)))]


async def throughput(count: int) -> None:
    """Ask as fast as it goes, and divide by the front's CPU time."""
    with bench() as made:
        for kind, is_stream in (("plain", False), ("streamed, 8 events", True)):
            for name, candidate in (("one version", None), ("a rollout at 50 %", 2)):
                made.follow(1, candidate, weight=50, rollout="r1")
                await made.settle(1, candidate)
                pool = Pool(made.port)

                async def ask(number: int, pool: Pool = pool, is_stream: bool = is_stream) -> None:
                    sent = request(NAME, user=f"u{number}", is_stream=is_stream)
                    assert (await pool.ask(sent, 0.0)).is_whole

                await closed(500, 8, ask)
                cpu, begin = made.cpu_seconds(), time.perf_counter()
                await closed(count, 8, ask)
                cpu, seconds = made.cpu_seconds() - cpu, time.perf_counter() - begin
                pool.close()
                print(
                    f"{kind}, {name}: {count / cpu:.0f} requests a CPU second of the front"
                    f" ({count / seconds:.0f} a second by the clock)"
                )


async def memory(count: int) -> None:
    """Look at the front's memory over many requests, half of them streamed, during a rollout."""
    with bench() as made:
        made.follow(1, 2, weight=50, rollout="r1")
        await made.settle(1, 2)
        pool = Pool(made.port)

        async def ask(number: int) -> None:
            sent = request(NAME, user=f"u{number}", is_stream=number % 2 == 1)
            assert (await pool.ask(sent, 0.0)).is_whole

        print("| requests | resident MiB |\n|---|---|")
        step = count // 10
        for number in range(11):
            await closed(step if number else 1000, 16, ask)
            print(f"| {number * step} | {made.resident_mib():.1f} |", flush=True)
        pool.close()
