"""A recorder on a real Unix socket in the test's event loop."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.serve.handover import SOCKET
from finetune_trainer.serve.recorder.retention import Keeper
from finetune_trainer.serve.recorder.server import Process, read_settings
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.reading import open_traffic
from kit.servers.running_front import TOKEN


def capture(folder: Path, **fields: Any) -> dict[str, Any]:
    """Return ``spec.capture`` with a folder as its storage."""
    uri = (folder / "storage").as_uri()
    return {"uri": uri, "include": "All", "sample": "1", "openToAll": True, **fields}


@dataclass
class RunningRecorder:
    """A recorder."""

    process: Process
    folder: Path
    socket: Path
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def keeper(self) -> Keeper:
        return self.process.keeper

    def follow(self, *endpoints: dict[str, Any]) -> None:
        """Have the recorder follow these endpoints from now on."""
        self.process.follow({each["metadata"]["name"]: each for each in endpoints})

    def store(self, endpoint: str = "headline") -> ObjectStore:
        """Return the traffic of an endpoint at rest."""
        return open_traffic((self.folder / "storage").as_uri(), "team-a", endpoint)

    def at_rest(self) -> str:
        """Return all that lies in storage and in the spool."""
        files = [
            path
            for top in ("storage", "spool")
            for path in sorted((self.folder / top).rglob("*"))
            if path.is_file() and "deleted" not in path.parts
        ]
        return "\n".join(f"{path}\n{path.read_text()}" for path in files)


@asynccontextmanager
async def running_recorder(
    folder: Path, *endpoints: dict[str, Any], token: str = TOKEN
) -> AsyncIterator[RunningRecorder]:
    """Run a recorder that follows these endpoints."""
    file = folder / "captured.json"
    file.write_text(json.dumps(endpoints))
    (folder / "token").write_text(token)
    socket = folder / "recorder.sock"
    environment = {
        "FINETUNE_ENDPOINTS": file.as_uri(),
        "FINETUNE_TOKEN_FILE": str(folder / "token"),
        "FINETUNE_SPOOL_DIR": str(folder / "spool"),
        SOCKET: str(socket),
    }
    arguments = argparse.Namespace(host="127.0.0.1", port=0, report_port=0)
    process = Process(read_settings(arguments, environment))
    recorder = RunningRecorder(process, folder, socket)
    task = asyncio.create_task(process.run(recorder.stop))
    ready_or_failed = asyncio.create_task(process.listening.wait())
    await asyncio.wait([task, ready_or_failed], return_when=asyncio.FIRST_COMPLETED)
    recorder.follow(*endpoints)
    try:
        yield recorder
    finally:
        recorder.stop.set()
        await task
