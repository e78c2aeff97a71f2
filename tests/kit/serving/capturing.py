"""A front and its recorder as processes of their own, as in a pod, to be killed by tests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from finetune_api.protocol.trainer import Environment
from finetune_trainer.serve.handover import SOCKET
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.reading import list_segments, read_segment
from kit.processes.eventually import eventually_async
from kit.servers.running_front import endpoint, served
from kit.serving import hurried

NAME = "headline"
CAPTURE = {"include": "All", "sample": "1", "openToAll": True}
_LISTENING = re.compile(r"listening on ports (\d+) and (\d+)")
_SERIES = re.compile(r"^(\w+)(?:{.*?(?:reason=\"(\w+)\")?})? (\S+)$", re.MULTILINE)


@dataclass
class Served:
    """A process, which a kubelet starts again once it has ended.

    Attributes:
        earlier: Counts of the processes before it; a scraper has them.
    """

    command: str
    folder: Path
    environment: Mapping[str, str]
    earlier: Counter[str] = field(default_factory=Counter)
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    report_port: int = 0

    def start(self) -> None:
        log = self.folder / f"{self.command}.log"
        with log.open("wb") as target:
            port = ["--port", "0"] if self.command == "front" else []
            self.process = subprocess.Popen(
                [sys.executable, "-m", hurried.__name__, self.command, "--host", "127.0.0.1",
                 *port, "--report-port", "0"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **self.environment},
                stderr=target,
            )  # fmt: skip
        while (found := _LISTENING.search(log.read_text())) is None:
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.02)
        self.port, self.report_port = int(found[1]), int(found[2])

    def kill(self) -> None:
        """End it without notice, as the kernel does when memory is short."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    async def counts(self) -> Counter[str]:
        """Return its counters: by name, and by name and reason where it has one."""
        url = f"http://127.0.0.1:{self.report_port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        # Of a process that is gone, what it counted stays, and what it had does not.
        found = Counter({name: each for name, each in self.earlier.items() if "_total" in name})
        for name, reason, value in _SERIES.findall(text):
            found[f"{name} {reason}".strip()] += int(float(value))
        return found


@dataclass
class Pod:
    """A front with its recorder."""

    front: Served
    recorder: Served
    session: aiohttp.ClientSession

    async def ask(self, content: str) -> str:
        """Ask, and return the response id."""
        body = {"model": NAME, "messages": [{"role": "user", "content": content}]}
        url = f"http://127.0.0.1:{self.front.port}/v1/chat/completions"
        async with self.session.post(url, json=body) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
            found: str = answer.headers["x-request-id"]
            return found

    async def dropped(self) -> Counter[str]:
        """Return the counted drops by reason."""
        front, recorder = await self.front.counts(), await self.recorder.counts()
        names = ("finetune_front_capture_dropped_total ", "finetune_recorder_dropped_total ")
        return Counter(
            {
                name.partition(" ")[2]: number
                for counts in (front, recorder)
                for name, number in counts.items()
                if name.startswith(names)
            }
        )


def rows_at_rest(store: ObjectStore) -> Iterator[str]:
    """Yield the id of each stored row, as often as it is stored."""
    for segment in list_segments(store):
        rows = read_segment(store, segment.key)
        assert len(rows) == segment.num_rows
        yield from (row.id for row in rows)


@asynccontextmanager
async def capturing_pod(
    folder: Path,
    engine_port: int,
    storage: Mapping[str, Any],
    credentials_dir: Path,
    hurry: Mapping[str, float],
) -> AsyncIterator[Pod]:
    """Run both. ``storage`` is that of the version; ``hurry`` are constants with other values."""
    version = {**served(1, engine_port), "storage": storage}
    made = endpoint(version, name=NAME, capture=CAPTURE)
    (folder / "endpoints.json").write_text(json.dumps([made]))
    (folder / "token").write_text("inner-token")
    environment = {
        "FINETUNE_ENDPOINTS": (folder / "endpoints.json").as_uri(),
        "FINETUNE_SERVER_URL": "http://127.0.0.1:{server}",
        "FINETUNE_KEYS_DIR": str(folder / "keys"),
        "FINETUNE_TOKEN_FILE": str(folder / "token"),
        "FINETUNE_SPOOL_DIR": str(folder / "spool"),
        Environment.CREDENTIALS_DIR: str(credentials_dir),
        hurried.VARIABLE: json.dumps(hurry),
        SOCKET: str(folder / "recorder.sock"),
    }
    front, recorder = (Served(name, folder, environment) for name in ("front", "recorder"))
    timeout = aiohttp.ClientTimeout(total=60)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            pod = Pod(front, recorder, session)
            for each in (recorder, front):
                each.start()
            await eventually_async(lambda: _is_ready(pod))
            yield pod
    finally:
        front.end()
        recorder.end()


async def _is_ready(pod: Pod) -> bool:
    for each in (pod.front, pod.recorder):
        url = f"http://127.0.0.1:{each.report_port}/readyz"
        async with pod.session.get(url) as answer:
            if answer.status != 200:
                return False
    return True
