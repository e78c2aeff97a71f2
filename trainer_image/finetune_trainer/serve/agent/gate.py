"""The one listener of a server pod. Requests need the front's token and a verified adapter."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Sequence

import aiohttp
import orjson
from aiohttp import web

from finetune_trainer.serve.agent.engine import CHAT, COMPLETIONS
from finetune_trainer.serve.agent.keeper import Adapter, Keeper
from finetune_trainer.serve.bodies import check_fields, parse_body
from finetune_trainer.serve.errors import Refused, json_response
from finetune_trainer.serve.listening import trust
from finetune_trainer.serve.proxy import StreamCut, open_answer, pass_on, read_body

MODELS = "/v1/models"
RETRY_SECONDS = 1.0
_PATHS = {CHAT: "POST", COMPLETIONS: "POST", MODELS: "GET"}


class Gate:
    """Answers requests at the pod's one port for inference.

    Args:
        session: Client for the engine.
        keeper: Knows which adapters are verified.
        engine_url: Base URL of the engine.
        tokens: Returns the tokens, one of which a request must bring.
        count: Is called with adapter name and status of each answer.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        keeper: Keeper,
        *,
        engine_url: str,
        tokens: Callable[[], Sequence[str]],
        count: Callable[[str, int], None],
    ) -> None:
        self._session = session
        self._keeper = keeper
        self._engine_url = engine_url.rstrip("/")
        self._tokens = tokens
        self._count = count
        self._look: asyncio.Task[None] | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request.

        Raises:
            Refused: It is not passed on.
        """
        # As it was sent: a path that is only equal once it is decoded is another path.
        path = request.raw_path.partition("?")[0]
        if _PATHS.get(path) != request.method:
            raise Refused(404, "not_found", "There is no such route.")
        self._check_token(request)
        if path == MODELS:
            return self._list_models()
        body, adapter = self._read(await read_body(request))
        adapter.num_open += 1
        try:
            return await self._pass_on(request, path, body, adapter)
        finally:
            adapter.num_open -= 1

    async def close(self) -> None:
        """Stop looking at the engine."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)

    def _check_token(self, request: web.BaseRequest) -> None:
        given = request.headers.getall("Authorization", [])
        sent = given[0].encode("utf-8", "surrogateescape") if len(given) == 1 else b""
        expected = [f"Bearer {token}".encode() for token in self._tokens()]
        if not any(hmac.compare_digest(sent, each) for each in expected):
            raise Refused(401, "invalid_token", "Ask the front: this server has no users.")
        trust(request)

    def _list_models(self) -> web.Response:
        names = sorted(
            adapter.wanted.name
            for adapter in self._keeper.adapters.values()
            if adapter.state == "Verified"
        )
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "finetune"} for name in names
        ]
        return json_response({"object": "list", "data": models})

    def _read(self, body: bytes) -> tuple[bytes, Adapter]:
        """Return the body to send and the adapter that it names.

        The body is written anew: a key that occurs twice is read alike by gate and engine.
        """
        wire = parse_body(body)
        check_fields(wire)
        name = wire.get("model")
        if not isinstance(name, str):
            raise Refused(400, "invalid_request", "The body names no model.", param="model")
        adapter = self._keeper.find(name)
        if adapter is None or (adapter.state == "Failed" and not adapter.wanted.has_traffic):
            raise Refused(404, "model_not_found", f"There is no model {name!r}.", param="model")
        if adapter.state != "Verified":
            # Another pod of this server may have verified it.
            raise self._refuse(adapter, "model_not_ready", "It is not verified here yet.")
        return orjson.dumps(wire), adapter

    async def _pass_on(
        self, request: web.BaseRequest, path: str, body: bytes, adapter: Adapter
    ) -> web.StreamResponse:
        headers = {"Content-Type": "application/json"}
        for name in ("x-request-id", "traceparent"):
            if given := request.headers.get(name):
                headers[name] = given
        try:
            opened = await open_answer(self._session, self._engine_url + path, body, headers)
        except (aiohttp.ClientError, TimeoutError, OSError):
            self._look_again()
            raise self._refuse(adapter, "engine_away", "The engine does not answer.") from None
        if opened.status == 404:
            # It knows the route, so it has lost the adapter.
            opened.close()
            self._look_again()
            raise self._refuse(adapter, "model_not_ready", "The engine has started again.")
        self._count(adapter.wanted.name, opened.status)
        try:
            answer = await pass_on(request, opened, {})
        except StreamCut:
            self._look_again()
            raise ConnectionResetError("the engine broke off") from None
        if opened.status == 200:  # an engine that hangs still refuses requests
            self._keeper.note_answer()
        return answer

    def _look_again(self) -> None:
        """Have the keeper look at the engine: it seems to be gone, or to have lost an adapter."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._keeper.look())

    def _refuse(self, adapter: Adapter, code: str, message: str) -> Refused:
        self._count(adapter.wanted.name, 503)
        return Refused(503, code, message, retry_seconds=RETRY_SECONDS)
