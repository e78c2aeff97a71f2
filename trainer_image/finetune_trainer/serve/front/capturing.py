"""Hands answers over to the recorder beside the front, and never waits for it.

Frames wait in a queue that is bounded by number and bytes. A frame that does not fit is counted and
dropped; its answer has already left. After a batch has failed, each of its frames is sent alone. A
frame that fails alone three times is counted and dropped. While the recorder is away, no frame is
at fault, and all wait. Frames that wait in a front that is
killed are lost. The next front beside the same recorder counts them, with answers that were on
their way and those that the recorder took at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import aiohttp
import orjson
from yarl import URL

from finetune_trainer.serve.errors import Refused
from finetune_trainer.serve.front.answers import Facts
from finetune_trainer.serve.front.calls import Call
from finetune_trainer.serve.front.metrics import Metrics
from finetune_trainer.serve.front.routes import Served
from finetune_trainer.serve.handover import (
    BATCH_BYTES,
    CAPTURES,
    COUNTS,
    MAX_ANSWER_BYTES,
    write_frame,
)
from finetune_trainer.serve.proxy import Opened
from finetune_trainer.traffic.rows import write_time

logger = logging.getLogger(__name__)

MAX_FRAMES = 4096
MAX_BYTES = 32 * 1024 * 1024
SECONDS = 30.0
"""Time for the recorder to take a batch, or to answer a request."""
GATHER_SECONDS = 0.05
"""Frames are gathered for so long before they are sent."""
REST_SECONDS = 0.25
"""And so long after a batch that has emptied the queue: a batch costs more than its frames."""
ALIVE_SECONDS = 5.0
"""After a timeout, a recorder that answers within this time is not away."""
MAX_FAILURES = 3
"""A frame is sent alone so often at most."""
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0
COUNT_SECONDS = 60.0
LAST_SECONDS = 3.0
"""At the end, what waits is tried for so long."""


class Kept:
    """The bytes of an answer as it passes.

    Args:
        watch: Is called with each piece.
    """

    __slots__ = ("_pieces", "_size", "_watch")

    def __init__(self, watch: Callable[[bytes], None]) -> None:
        self._watch = watch
        self._pieces: list[bytes] = []
        self._size = 0

    def take(self, piece: bytes) -> None:
        """Keep a piece, unless the answer is too long."""
        self._watch(piece)
        self._size += len(piece)
        if self._size <= MAX_ANSWER_BYTES:
            self._pieces.append(piece)

    def answer(self) -> bytes | None:
        """Return the answer; None if it is too long."""
        return None if self._size > MAX_ANSWER_BYTES else b"".join(self._pieces)


@dataclass(slots=True)
class _Waiting:
    """A frame in the queue.

    Attributes:
        goes_alone: A batch with it has failed.
        num_failures: How often it has failed alone.
    """

    endpoint: str
    frame: bytes
    goes_alone: bool = False
    num_failures: int = 0


class _Outcome(Enum):
    TAKEN = auto()
    FAILED = auto()
    AWAY = auto()


class Tally:
    """Numbers of answers that wait, by endpoint, in a file that a killed front leaves behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers: Counter[str] = Counter()
        self._file: int | None = None

    def begin(self) -> Counter[str]:
        """Return the numbers of the front before this one, and begin at zero."""
        try:
            found = orjson.loads(self._path.read_bytes().partition(b"\n")[0])
            left = Counter({str(name): int(number) for name, number in found.items()})
        except (OSError, ValueError, AttributeError, TypeError):
            left = Counter()
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            logger.warning("A killed front could not tell its losses: %s", error)
        self.add(Counter())
        return left

    def add(self, numbers: Counter[str]) -> None:
        """Count answers that have come; negative numbers, that have gone."""
        self._numbers.update(numbers)
        if self._file is not None:
            written = orjson.dumps({name: each for name, each in self._numbers.items() if each})
            with contextlib.suppress(OSError):
                os.pwrite(self._file, written + b"\n", 0)

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            os.close(self._file)
            self._path.unlink(missing_ok=True)
            self._file = None


class Capturing:
    """Sends frames to the recorder.

    Args:
        socket: Path of its Unix socket; None if there is no recorder.
    """

    def __init__(self, socket: str | None, metrics: Metrics) -> None:
        self._socket = socket
        self._metrics = metrics
        self._queue: deque[_Waiting] = deque()
        self._num_bytes = 0
        self._filled = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._tally: Tally | None = None
        if socket is not None:
            self._tally = Tally(Path(f"{socket}.waiting"))
            for name, number in self._tally.begin().items():
                metrics.drop_capture(name, "Killed", number)

    def expect(self, endpoint: str) -> None:
        """Count an answer that is to be captured, before its last bytes leave."""
        self._count(Counter({endpoint: 1}))

    def expect_no_more(self, endpoint: str) -> None:
        """Take an expected answer back: it is not queued."""
        self._count(Counter({endpoint: -1}))

    def hand_over(
        self,
        call: Call,
        served: Served,
        opened: Opened,
        facts: Facts,
        kept: Kept,
        *,
        seconds: float,
        is_error: bool,
    ) -> None:
        """Queue an expected answer that has ended."""
        name = call.route.name
        answer = kept.answer()
        if self._socket is None or answer is None:
            reason = "NoRecorder" if self._socket is None else "TooLarge"
            self._metrics.drop_capture(name, reason)
            self.expect_no_more(name)
            return
        head = {
            "id": call.id,
            "time": write_time(call.time),
            "namespace": call.route.namespace,
            "endpoint": name,
            "version": served.version,
            "sha256": served.sha256,
            "isStream": opened.is_stream,
            "isError": is_error,
            "latencySeconds": round(seconds, 6),
            "numInputTokens": facts.num_input_tokens,
            "numOutputTokens": facts.num_output_tokens,
            "isRefusal": facts.is_refusal,
            "isInvalidJson": facts.is_invalid_json,
            "sender": call.sender,
        }
        frame = write_frame(head, call.raw, answer)
        if len(self._queue) >= MAX_FRAMES or self._num_bytes + len(frame) > MAX_BYTES:
            self._metrics.drop_capture(name, "QueueFull")
            self.expect_no_more(name)
            return
        self._queue.append(_Waiting(name, frame))
        self._num_bytes += len(frame)
        self._filled.set()

    async def keep_sending(self) -> None:
        """Send batches until cancelled."""
        loop, rested_at = asyncio.get_running_loop(), 0.0
        while True:
            await self._filled.wait()
            await asyncio.sleep(max(GATHER_SECONDS, rested_at - loop.time()))
            pause = FIRST_PAUSE_SECONDS
            while self._queue and await self._send() is not _Outcome.TAKEN:
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            if not self._queue:
                rested_at = loop.time() + REST_SECONDS

    async def keep_counting(self, show: Callable[[dict[str, object]], None]) -> None:
        """Show what the recorder has counted, each minute, until cancelled."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            with contextlib.suppress(Refused, ValueError):
                status, _, body = await self.ask("GET", COUNTS, None, {})
                if status == 200:
                    show(orjson.loads(body))

    async def close(self) -> None:
        """Send what waits, for a short time."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                while self._queue and await self._send() is not _Outcome.AWAY:
                    pass
        except TimeoutError:
            pass
        for waiting in self._queue:
            self._metrics.drop_capture(waiting.endpoint, "Stopped")
        if self._queue:
            logger.warning("%d answers were not taken by the recorder", len(self._queue))
        if self._tally is not None:
            self._tally.close()
        if self._session is not None:
            await self._session.close()

    def _count(self, numbers: Counter[str]) -> None:
        if self._tally is not None:
            self._tally.add(numbers)

    async def _send(self) -> _Outcome:
        """Send the first frames."""
        batch = self._next_batch()
        try:
            data = b"".join(waiting.frame for waiting in batch)
            status, _, _ = await self._ask("POST", CAPTURES, data, {})
        except aiohttp.ClientConnectorError:
            return _Outcome.AWAY
        except TimeoutError:
            if not await self._is_alive():
                return _Outcome.AWAY
            reason = "TimedOut"
        except (aiohttp.ClientError, OSError):
            reason = "BrokenOff"  # a frame may be what kills the recorder
        else:
            if status == 503:  # its spool is full
                return _Outcome.AWAY
            if status < 400:
                self._take_off(len(batch))
                return _Outcome.TAKEN
            reason = "Refused"
        self._note_failure(batch, reason)
        return _Outcome.FAILED

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        for waiting in self._queue:
            if waiting.goes_alone:
                return batch or [waiting]
            batch.append(waiting)
            size += len(waiting.frame)
            if size >= BATCH_BYTES:
                break
        return batch

    def _note_failure(self, batch: list[_Waiting], reason: str) -> None:
        """Have the frames of a batch go alone. One that went alone lets the others go first."""
        for waiting in batch:
            waiting.goes_alone = True
        if len(batch) > 1:
            return
        (waiting,) = batch
        self._take_off(1)
        waiting.num_failures += 1
        if waiting.num_failures >= MAX_FAILURES:
            self._metrics.drop_capture(waiting.endpoint, reason)
            return
        self._queue.append(waiting)
        self._num_bytes += len(waiting.frame)
        self._count(Counter({waiting.endpoint: 1}))
        self._filled.set()

    def _take_off(self, number: int) -> None:
        taken = [self._queue.popleft() for _ in range(number)]
        self._num_bytes -= sum(len(waiting.frame) for waiting in taken)
        self._count(Counter({name: -n for name, n in Counter(w.endpoint for w in taken).items()}))
        if not self._queue:
            self._filled.clear()

    async def _is_alive(self) -> bool:
        """Tell whether the recorder answers at all."""
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                await self._ask("GET", COUNTS, None, {})
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        return True

    async def ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Ask the recorder; return status, headers and body of its answer.

        Raises:
            Refused: It cannot be reached.
        """
        if self._socket is None:
            raise Refused(404, "not_captured", "Answers are not captured here.")
        try:
            return await self._ask(method, path, body, headers)
        except (aiohttp.ClientError, TimeoutError, OSError):
            message = "The recorder of answers is away. Try again."
            raise Refused(503, "recorder_away", message, retry_seconds=1) from None

    async def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        assert self._socket is not None
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._socket, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        url, limit = URL(f"http://recorder{path}", encoded=True), aiohttp.ClientTimeout(SECONDS)
        async with self._session.request(
            method, url, data=body, headers=headers, timeout=limit
        ) as answer:
            return answer.status, answer.headers, await answer.read()
