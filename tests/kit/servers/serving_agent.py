"""An agent process beside an engine without a model, over real sockets."""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from finetune_api.protocol.serving import ServerReport, parse_report
from finetune_trainer.serve.agent.server import Process, read_settings
from kit.builders.versions import endpoint_with
from kit.processes.eventually import eventually_async
from kit.servers.serving_engine import ServingEngine

TOKEN = "front-token"


@dataclass
class Agent:
    """A running agent with its engine."""

    engine: ServingEngine
    process: Process
    endpoints: Path
    session: aiohttp.ClientSession

    def want(self, **status: Any) -> None:
        """Write the endpoints that the agent follows."""
        self.endpoints.write_text(json.dumps([endpoint_with(**status)]))

    async def get(self, path: str) -> tuple[int, str]:
        """Ask the port of the cluster."""
        url = f"http://127.0.0.1:{self.process.report_port}{path}"
        async with self.session.get(url) as response:
            return response.status, await response.text()

    async def report(self) -> ServerReport:
        """Return the report as the operator reads it."""
        _, text = await self.get("/report")
        report = parse_report(text)
        assert isinstance(report, ServerReport)
        return report

    async def until(self, name: str, state: str) -> Any:
        """Wait until an adapter has a state; return its report."""

        async def look():
            found = {each.name: each for each in (await self.report()).adapters}
            return found[name] if name in found and found[name].state == state else None

        return await eventually_async(look, timeout=10)

    async def ask(
        self,
        path: str = "/v1/chat/completions",
        body: Any = None,
        *,
        token: str | None = TOKEN,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        raw: str | None = None,
    ) -> tuple[int, Any]:
        """Ask the port of fronts; return status and body, of a stream its text.

        ``raw`` is a body that is sent as it is.
        """
        given = {"Authorization": f"Bearer {token}"} if token is not None else {}
        url = f"http://127.0.0.1:{self.process.port}{path}"
        async with self.session.request(
            method,
            url,
            data=raw if body is None else json.dumps(body),
            headers={**given, **(headers or {})},
        ) as response:
            text = await response.text()
            is_json = "json" in response.headers.get("Content-Type", "")
            return response.status, json.loads(text) if is_json else text


def question(name: str, text: str, **more: Any) -> dict[str, Any]:
    """Return the body of a question."""
    return {"model": name, "messages": [{"role": "user", "content": text}], **more}


@asynccontextmanager
async def running_agent(folder: Path, engine: ServingEngine, **settings: Any):
    """Run an agent that follows a file."""
    folder.mkdir(parents=True, exist_ok=True)
    endpoints, token = folder / "endpoints.json", folder / "token"
    if not endpoints.exists():
        endpoints.write_text("[]")
    token.write_text(TOKEN + "\n")
    environment = {
        "FINETUNE_NAMESPACE": "team",
        "FINETUNE_SERVER": "fts-0123456789ab",
        "FINETUNE_ENGINE_URL": engine.url,
        "FINETUNE_ADAPTERS_DIR": str(folder / "adapters"),
        "FINETUNE_TOKEN_FILE": str(token),
        "FINETUNE_ENDPOINTS": f"file://{endpoints}",
        "FINETUNE_LINGER_SECONDS": "0",
        "FINETUNE_GRACE_SECONDS": "3",
    }
    address = argparse.Namespace(host="127.0.0.1", port=0, report_port=0)
    known = read_settings(address, {**environment, **settings.pop("environment", {})})
    process = Process(replace(known, **settings))
    stop = asyncio.Event()
    running = asyncio.create_task(process.run(stop))
    async with aiohttp.ClientSession() as session:
        await process.listening.wait()
        yield Agent(engine=engine, process=process, endpoints=endpoints, session=session)
        stop.set()
        await running
