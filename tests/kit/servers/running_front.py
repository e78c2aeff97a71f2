"""A front on real sockets in the test's event loop, its endpoints set by the test."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from finetune_api.protocol.serving import OF_CANDIDATE, read_cells
from finetune_trainer.serve.front.server import Process, read_settings
from finetune_trainer.serve.handover import SOCKET

TOKEN = "inner-token"


def served(version: int, server: object, name: str = "headline") -> dict[str, Any]:
    """Return a version in the status of an endpoint. `server` is the port that it listens on."""
    return {
        "version": version,
        "adapter": f"team-a.{name}-v{version}",
        "server": str(server),
        "verifiedTime": "2026-11-29T10:00:00Z",
    }


def endpoint(
    active: dict[str, Any] | None,
    candidate: dict[str, Any] | None = None,
    *,
    name: str = "headline",
    weight: int = 50,
    rollout_id: str = "r1",
    previous: dict[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """Return a FineTuneEndpoint."""
    status: dict[str, Any] = {"active": active, "previous": previous}
    if candidate is not None:
        status["candidate"] = {**candidate, "weight": weight, "rolloutId": rollout_id}
    metadata = {"name": name, "namespace": "team-a", "uid": f"uid-{name}"}
    return {"metadata": metadata, "spec": {"jobRef": {"name": name}, **spec}, "status": status}


def access(secret: str | None = None, per_minute: int | None = None) -> dict[str, Any]:
    """Return ``spec.access``."""
    found: dict[str, Any] = {}
    if secret is not None:
        found["keysFrom"] = {"secretRef": {"name": secret}}
    if per_minute is not None:
        found["requestsPerMinute"] = per_minute
    return found


@dataclass
class RunningFront:
    """A front.

    Attributes:
        session: A client for it.
    """

    process: Process
    folder: Path
    session: aiohttp.ClientSession
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.process.port}"

    def follow(self, *endpoints: dict[str, Any]) -> None:
        """Have the front follow these endpoints from now on."""
        self.process.follow({each["metadata"]["name"]: each for each in endpoints})

    async def set_keys(self, secret: str, **keys: str) -> None:
        """Write a Secret, as the kubelet does. Spaces divide the keys of one entry."""
        folder = self.folder / "keys" / secret
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        for name, entry in keys.items():
            digests = (hashlib.sha256(key.encode()).hexdigest() for key in entry.split())
            (folder / name).write_text("".join(f"sha256:{digest}\n" for digest in digests))
        await self.process.look()

    def ask(self, content: str = "hi", *, key: str | None = None, **body: Any) -> Any:
        """Ask the endpoint; returns aiohttp's context manager."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        fields = {"model": "headline", "messages": [{"role": "user", "content": content}], **body}
        return self.session.post(self.url + "/v1/chat/completions", json=fields, headers=headers)

    async def version_for(self, user: str) -> str:
        """Return the version that answers a user."""
        async with self.ask(user=user) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
            version: str = answer.headers["x-finetune-version"]
            return version

    async def report(self, name: str = "headline") -> dict[str, Any]:
        """Return what the front reports of an endpoint."""
        async with self.session.get(self._private("/report")) as answer:
            found = (await answer.json())["endpoints"]
        return next(each for each in found if each["name"] == name)

    async def num_bad(self, signal: str) -> tuple[int, int]:
        """Return the users with a bad answer of the active version and of the candidate."""
        for each in (await self.report())["events"]:
            if each["signal"] == signal:
                marks = read_cells(each["cells"]).values()
                num_candidate = sum(mark >= OF_CANDIDATE for mark in marks)
                return len(marks) - num_candidate, num_candidate
        return 0, 0

    async def counts(self, weight: int = 50) -> tuple[dict[str, int], dict[str, int]]:
        """Return the counts of the active version and of the candidate."""
        streams = (await self.report())["streams"]
        stream = next(each for each in streams if each["weight"] == weight)
        return stream["active"], stream["candidate"]

    async def metrics(self) -> str:
        """Return the metrics."""
        async with self.session.get(self._private("/metrics")) as answer:
            return await answer.text()

    def _private(self, path: str) -> str:
        return f"http://127.0.0.1:{self.process.report_port}{path}"


@asynccontextmanager
async def running_front(
    folder: Path,
    *endpoints: dict[str, Any],
    recorder: Path | None = None,
    token: str = TOKEN,
    environment: dict[str, str] | None = None,
) -> AsyncIterator[RunningFront]:
    """Run a front that follows these endpoints, with the recorder at a socket."""
    file = folder / "endpoints.json"
    file.write_text(json.dumps(endpoints))
    (folder / "token").write_text(token)
    variables = {
        "FINETUNE_ENDPOINTS": file.as_uri(),
        "FINETUNE_SERVER_URL": "http://127.0.0.1:{server}",
        "FINETUNE_KEYS_DIR": str(folder / "keys"),
        "FINETUNE_TOKEN_FILE": str(folder / "token"),
        "FINETUNE_LINGER_SECONDS": "0",
        **({} if recorder is None else {SOCKET: str(recorder)}),
        **(environment or {}),
    }
    arguments = argparse.Namespace(host="127.0.0.1", port=0, report_port=0)
    process = Process(read_settings(arguments, variables))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        front = RunningFront(process, folder, session)
        task = asyncio.create_task(process.run(front.stop))
        ready_or_failed = asyncio.create_task(process.listening.wait())
        await asyncio.wait([task, ready_or_failed], return_when=asyncio.FIRST_COMPLETED)
        front.follow(*endpoints)
        await process.look()
        try:
            yield front
        finally:
            front.stop.set()
            await task
