"""The routes of the server: vLLM's, as far as the agent and the front use them."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from finetune_trainer.errors import TrainerError
from finetune_trainer.serve.engine import requests, responses
from finetune_trainer.serve.engine.batch import Finished, Reply
from finetune_trainer.serve.engine.requests import Ask, RequestError
from finetune_trainer.serve.engine.responses import Response
from finetune_trainer.serve.engine.text import AnswerText, TextReader
from finetune_trainer.serve.engine.worker import Worker

MAX_BODY_BYTES = 4 * 1024 * 1024

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(worker: Worker, *, context: int | None, version: dict[str, str]) -> web.Application:
    """Return the application.

    Args:
        worker: Computes the answers.
        context: Tokens of the model's context; None if nobody knows.
        version: Body of ``GET /version``.
    """
    routes = _Routes(worker, context, version)
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_shape_errors])
    app.add_routes(
        [
            web.get("/health", routes.say_healthy),
            web.get("/version", routes.say_version),
            web.get("/v1/models", routes.list_models),
            web.post("/v1/chat/completions", routes.chat),
            web.post("/v1/completions", routes.complete),
            web.post("/v1/load_lora_adapter", routes.load),
            web.post("/v1/unload_lora_adapter", routes.unload),
        ]
    )
    return app


class _Routes:
    def __init__(self, worker: Worker, context: int | None, version: dict[str, str]) -> None:
        self._worker = worker
        self._context = context
        self._version = version

    async def say_healthy(self, _: web.Request) -> web.StreamResponse:
        return web.Response()

    async def say_version(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self._version)

    async def list_models(self, _: web.Request) -> web.StreamResponse:
        served = self._worker.names.values()
        return web.json_response(responses.list_models(served, context=self._context))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, requests.read_chat(await _read_json(request)))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, requests.read_completion(await _read_json(request)))

    async def load(self, request: web.Request) -> web.StreamResponse:
        name, path = requests.read_adapter(await _read_json(request), with_path=True)
        await asyncio.wrap_future(self._worker.load(name, Path(path)))
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: web.Request) -> web.StreamResponse:
        name, _ = requests.read_adapter(await _read_json(request), with_path=False)
        await asyncio.wrap_future(self._worker.unload(name))
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _generate(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(piece: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        reply = self._make_reply(ask, emit)
        given = request.headers.get("X-Request-Id", "")
        response = Response(
            id=f"{'chatcmpl' if ask.is_chat else 'cmpl'}-{given[:128] or uuid.uuid4().hex}",
            model=ask.model,
            created=int(time.time()),
            is_chat=ask.is_chat,
            num_prompt_tokens=len(reply.prompt),
        )
        self._worker.submit(reply)
        end = asyncio.wrap_future(reply.future)
        end.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            if ask.stream:
                return await _stream(
                    request, response, pieces, end, usage=bool(ask.stream_options.include_usage)
                )
            decode = reply.served.encoder.reader.decode
            return web.json_response(response.whole(await end, decode))
        finally:
            # A client that has gone ends its request's generation.
            end.cancel()

    def _make_reply(self, ask: Ask, emit: Callable[[str], None]) -> Reply:
        names = self._worker.names
        if ask.model not in names:
            raise requests.unknown_model(ask.model, list(names))
        served = names[ask.model]
        encoder = served.encoder
        if ask.is_chat and encoder.chat_format.template is None:
            raise RequestError(
                f"{ask.model} has no chat template, so it continues texts: ask /v1/completions",
                param="messages",
            )
        try:
            ids = encoder.encode_prompt(ask.prompt, ask.tools)
        except TrainerError as error:
            raise RequestError(error.message, param="messages") from error
        with suppress(TrainerError):  # a template that needs the tools writes them
            if ask.tools and ids == encoder.encode_prompt(ask.prompt):
                raise RequestError(
                    "the model's chat template leaves `tools` out of the prompt; remove them, or "
                    "train with a template that writes them in model.chatTemplate",
                    param="tools",
                    code="unsupported_value",
                )
        reader = TextReader(encoder=encoder, prompt=ids, is_chat=ask.is_chat)
        return Reply(
            served=served,
            ask=ask,
            prompt=ids,
            limit=requests.limit_answer(ask, len(ids), self._context),
            text=AnswerText(reader=reader, stops=ask.stop),
            emit=emit,
        )


async def _stream(
    request: web.Request,
    response: Response,
    pieces: asyncio.Queue[str | None],
    end: asyncio.Future[Finished],
    *,
    usage: bool,
) -> web.StreamResponse:
    # Headers wait for the first piece, so that a failure still has its own status.
    piece, is_first = await pieces.get(), True
    if piece is None:
        end.result()
    stream = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    await stream.prepare(request)
    while piece is not None:
        await stream.write(response.chunk(piece, is_first=is_first))
        piece, is_first = await pieces.get(), False
    try:
        done = end.result()
    except RequestError as error:
        await stream.write(responses.event(error.body))
    else:
        await stream.write(response.chunk(done.piece, is_first=is_first, reason=done.reason))
        if usage:
            await stream.write(response.usage_chunk(done.num_tokens))
        await stream.write(responses.DONE)
    await stream.write_eof()
    return stream


async def _read_json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError as error:
        raise RequestError(f"the body is no JSON ({error}): send a JSON object") from error


@web.middleware
async def _shape_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer every refusal in OpenAI's shape."""
    try:
        return await handler(request)
    except RequestError as error:
        refused = error
    except web.HTTPRequestEntityTooLarge:
        refused = RequestError(
            f"the body has more than {MAX_BODY_BYTES:,} bytes: send less", status=413
        )
    except web.HTTPException as error:
        words = f"{request.method} {request.path} is not served here ({error.reason})"
        refused = RequestError(words, status=error.status)
    return web.json_response(refused.body, status=refused.status)
