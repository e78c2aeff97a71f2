"""The routes of the recorder's socket. Only the front beside it can ask them.

The front has checked key, limits and response id, and names endpoint and sender in headers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from finetune_trainer.serve.errors import Refused, json_response
from finetune_trainer.serve.handover import (
    BATCH_BYTES,
    CAPTURES,
    COUNTS,
    MAX_ANSWER_BYTES,
    REACH_HEADER,
    SENDER_HEADER,
    WHOSE_HEADER,
    Frame,
    Reach,
    read_frames,
)
from finetune_trainer.serve.logs import log_defect
from finetune_trainer.serve.proxy import MAX_BODY_BYTES, read_body
from finetune_trainer.serve.recorder.feedback import Asker, FeedbackDesk
from finetune_trainer.serve.recorder.metrics import Metrics
from finetune_trainer.serve.recorder.retention import Keeper
from finetune_trainer.serve.recorder.scrubbing import make_row
from finetune_trainer.traffic.rows import Exchange, write_exchange

logger = logging.getLogger(__name__)

MAX_BATCH_BYTES = BATCH_BYTES + 2 * (MAX_BODY_BYTES + MAX_ANSWER_BYTES)


class Recorder:
    """Answers the front."""

    def __init__(self, keeper: Keeper, metrics: Metrics) -> None:
        self._keeper = keeper
        self._metrics = metrics
        self._desk = FeedbackDesk(keeper)
        self._scrubbing = asyncio.Lock()
        # Of its own: storage that hangs may hold all threads of the loop.
        self._scrubber = ThreadPoolExecutor(1, thread_name_prefix="scrubber")

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request.

        Raises:
            Refused: It cannot be served.
        """
        if request.path == CAPTURES:
            return await self._take(request)
        if request.path == COUNTS:
            return json_response(self._counts())
        place = self._keeper.places.get(request.headers.get(WHOSE_HEADER, ""))
        if place is None:
            raise Refused(404, "not_captured", "This endpoint captures no answers.")
        await self._keeper.know_people(place.endpoint)
        sender = request.headers.get(SENDER_HEADER, "")
        hashes = self._keeper.people.hashes(place.endpoint, place.whose, sender)
        reach = Reach(request.headers.get(REACH_HEADER, Reach.OWN))
        return await self._desk.answer(request, Asker(place, sender, hashes, reach))

    def _counts(self) -> dict[str, dict[str, object]]:
        return {
            place.endpoint: {"uri": place.storage.uri, "rows": each.rows, "feedback": each.feedback}
            for place, each in self._keeper.counts.items()
        }

    async def _take(self, request: web.BaseRequest) -> web.Response:
        body = await read_body(request, limit=MAX_BATCH_BYTES)
        if self._keeper.spool.is_full:
            raise Refused(503, "full", "Too much waits for object storage.", retry_seconds=1)
        try:
            frames = list(read_frames(body))
        except (ValueError, UnicodeDecodeError):
            raise Refused(400, "broken_batch", "The batch cannot be read.") from None
        if not self._keeper.is_known:
            raise Refused(503, "starting", "The endpoints are not known yet.", retry_seconds=1)
        named = {str(frame.head.get("endpoint", "")) for frame in frames}
        await asyncio.gather(*map(self._keeper.know_people, named))
        async with self._scrubbing:
            rows = await asyncio.get_running_loop().run_in_executor(
                self._scrubber, self._make_rows, frames
            )
            try:
                self._spool(rows)
            except OSError as error:  # such as a full disk
                logger.warning("the spool cannot be written: %s", error.strerror)
                message = "The spool cannot be written."
                raise Refused(503, "spool_failed", message, retry_seconds=1) from None
        return web.Response(status=204)

    def _spool(self, rows: Iterable[Exchange]) -> None:
        for row in rows:
            if self._keeper.spool.has(row.id) or self._keeper.has_room(row.endpoint):
                self._keeper.spool.add([row], asyncio.get_running_loop().time())
            else:
                self._metrics.drop(row.endpoint, "SpoolFull")

    def _make_rows(self, frames: Iterable[Frame]) -> list[Exchange]:
        rows = []
        for frame in frames:
            try:
                row = make_row(frame, self._keeper.people.hash)
                # It nests a request one level deeper, and JSON has a limit.
                write_exchange(row)
                rows.append(row)
            except Exception as error:  # one answer without a row must not stop others
                log_defect(error)
                self._metrics.drop(str(frame.head.get("endpoint", "")), "NotScrubbed")
        return rows
