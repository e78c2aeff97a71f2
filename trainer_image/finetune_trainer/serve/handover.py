"""What the front hands over to the recorder beside it: frames, many in one request. Pure.

The bytes of request and answer pass as they are. The front writes no JSON but a short head.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

MAX_ANSWER_BYTES = 256 * 1024
"""A longer answer is not captured."""
BATCH_BYTES = 1024 * 1024
"""A batch ends with the frame that reaches this size."""
SOCKET = "FINETUNE_RECORDER_SOCKET"
"""Environment variable with the path of the recorder's Unix socket. Unset: nothing is captured."""
CAPTURES = "/captures"
COUNTS = "/counts"
WHOSE_HEADER = "x-finetune-endpoint"
SENDER_HEADER = "x-finetune-sender"
REACH_HEADER = "x-finetune-reach"


class Reach(StrEnum):
    """Which captured answers of an endpoint a sender reaches."""

    ALL = "All"
    OWN = "Own"
    """Those that were given to the same key."""
    OWN_AND_USERS = "OwnAndUsers"
    """Those as well, and all answers of a user can be deleted."""


_LENGTHS = struct.Struct("!III")


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """An answer as it passed.

    Attributes:
        head: ``id``, ``time``, ``endpoint``, ``namespace``, ``version``, ``sha256``, ``isStream``,
            ``isError``, ``latencySeconds``, ``isRefusal``, ``isInvalidJson``, ``sender`` and the
            numbers of tokens.
        request: The request's body.
        answer: The answer's body.
    """

    head: Mapping[str, Any]
    request: bytes
    answer: bytes


def write_frame(head: Mapping[str, Any], request: bytes, answer: bytes) -> bytes:
    """Return a frame as it is sent."""
    written = orjson.dumps(head)
    return b"".join(
        (_LENGTHS.pack(len(written), len(request), len(answer)), written, request, answer)
    )


def read_frames(body: bytes) -> Iterator[Frame]:
    """Yield the frames of a batch.

    Raises:
        ValueError: It is no batch.
    """
    place = 0
    while place < len(body):
        try:
            lengths = _LENGTHS.unpack_from(body, place)
        except struct.error:
            raise ValueError("the batch ends within a frame") from None
        place += _LENGTHS.size
        parts = []
        for length in lengths:
            parts.append(body[place : place + length])
            place += length
        if place > len(body):
            raise ValueError("the batch ends within a frame")
        yield Frame(head=orjson.loads(parts[0]), request=parts[1], answer=parts[2])
