"""An engine without a model: vLLM's routes, with answers from a table or the adapter's folder."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

ANSWERS = "answers.json"
"""File of an adapter: the answer to each question."""


@dataclass
class ServingEngine:
    """State of the engine; a test may change it at any time.

    Attributes:
        adapters: Answers by question, by adapter.
        base: Answers of the base model, which adapters with other module names give too.
        ignored: Adapters that the engine loads without any effect.
        refused: Adapters that it does not load.
        mixed_up: Adapters whose load changes what all others answer.
        overlaid: Answers of others that adapters give.
        served: Answers of models that it was started with.
        calls: Method and path of all requests.
        hangs: Nothing is computed, while models are listed and requests are refused as ever.
        token_status: Status of the answer to a call for one token.
    """

    url: str = ""
    slots: int = 1000
    name: str = "Transformers"
    version: str = "5.0.0"
    about: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, dict[str, str]] = field(default_factory=dict)
    base: dict[str, str] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    mixed_up: set[str] = field(default_factory=set)
    overlaid: dict[str, dict[str, str]] = field(default_factory=dict)
    served: dict[str, dict[str, str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    bodies: list[dict] = field(default_factory=list)
    traces: list[str | None] = field(default_factory=list)
    hold: asyncio.Event | None = None
    hold_load: asyncio.Event | None = None
    loading: set[asyncio.Task] = field(default_factory=set)
    is_down: bool = False
    hangs: bool = False
    token_status: int = 200
    runner: web.AppRunner | None = None

    async def listen(self) -> None:
        """Listen on a free loopback port."""
        app = web.Application(middlewares=[self._be_down])
        app.add_routes(
            [
                web.get("/version", self._version),
                web.get("/metrics", self._metrics),
                web.get("/v1/models", self._models),
                web.post("/v1/load_lora_adapter", self._load),
                web.post("/v1/unload_lora_adapter", self._unload),
                web.post("/v1/completions", self._complete),
                web.post("/v1/chat/completions", self._chat),
            ]
        )
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    def start(self) -> None:
        """Answer again after a stop, without any adapter."""
        self.adapters = {}
        self.is_down = False

    def stop(self) -> None:
        """Cut all connections, and every new one at its first request."""
        self.is_down = True
        for connection in self.runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    @web.middleware
    async def _be_down(self, request, handler):
        if not self.is_down:
            return await handler(request)
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _version(self, _request):
        return web.json_response({"version": self.version, "engine": self.name, **self.about})

    async def _metrics(self, _request):
        return web.Response(text='vllm:num_requests_waiting{model_name="x"} 3.0\nvllm:secret 1\n')

    async def _models(self, _request):
        self.calls.append("models")
        names = ["base", *self.served, *self.adapters]
        return web.json_response({"data": [{"id": name} for name in names]})

    async def _load(self, request):
        body = await request.json()
        name = body["lora_name"]
        self.calls.append(f"load {name}")
        if name in self.refused:
            return web.json_response({"message": "wrong rank"}, status=400)
        if len(self.adapters) >= self.slots:
            error = {"message": "all slots are taken", "code": "no_free_slot"}
            return web.json_response({"error": error}, status=400)
        if name in self.adapters:
            return web.json_response({"message": "already loaded"}, status=400)
        answers = json.loads((Path(body["lora_path"]) / ANSWERS).read_text())
        if self.hold_load is not None:
            # The load goes on after its caller has left.
            loading = asyncio.create_task(self._finish_load(name, answers))
            self.loading.add(loading)
            await asyncio.shield(loading)
            return web.Response(text="Success")
        answers = self.overlaid.get(name, answers)
        if name in self.mixed_up:
            self.adapters = {each: dict.fromkeys(a, "?") for each, a in self.adapters.items()}
        self.adapters[name] = dict(self.base) if name in self.ignored else answers
        return web.Response(text="Success")

    async def _finish_load(self, name, answers):
        await self.hold_load.wait()
        self.adapters[name] = answers

    async def _unload(self, request):
        name = (await request.json())["lora_name"]
        self.calls.append(f"unload {name}")
        if self.loading:
            await asyncio.wait(self.loading)
        if self.adapters.pop(name, None) is None:
            return web.json_response({"message": "not loaded"}, status=404)
        return web.Response(text="Success")

    async def _complete(self, request):
        self.calls.append("one token")
        if self.hangs:
            await asyncio.Event().wait()
        return web.json_response({"choices": [{"text": "1"}]}, status=self.token_status)

    async def _chat(self, request):
        body = await request.json()
        self.bodies.append(body)
        self.traces.append(request.headers.get("traceparent"))
        if self.hangs:
            return web.json_response({"error": {"message": "no such value"}}, status=400)
        known = {"base": self.base, **self.served, **self.adapters}
        answers = known.get(body["model"])
        if answers is None:
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        if self.hold is not None:
            await self.hold.wait()
        text = answers.get(body["messages"][-1]["content"], "?")
        if body.get("stream"):
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for piece in text:
                await response.write(f"data: {json.dumps({'piece': piece})}\n\n".encode())
            await response.write(b"data: [DONE]\n\n")
            return response
        choice = {"message": {"content": text}}
        if body.get("logprobs"):
            said = [{"token": f"{word} ", "logprob": -0.1} for word in text.split()]
            choice["logprobs"] = {"content": [{**each, "top_logprobs": [each]} for each in said]}
        return web.json_response({"choices": [choice]})


@asynccontextmanager
async def serving_engine(**settings):
    """Run an engine on a free loopback port."""
    engine = ServingEngine(**settings)
    await engine.listen()
    try:
        yield engine
    finally:
        await engine.runner.cleanup()
