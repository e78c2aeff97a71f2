"""The body of a write that calls its gate right before its bytes leave.

A write can wait seconds for a token, the credentials or a free connection. A gate that is called
only before that would let a leader write after it lost its lease.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesPayload

Gate: TypeAlias = Callable[[], None]
"""Called before every write; raises to stop it."""


class GatedBody(BytesPayload):
    """Bytes that are sent only if the gate permits.

    The headers may have left by then. The server ignores a request without its body, and aiohttp
    closes the connection.

    Args:
        value: The bytes to send; not empty.
        gate: Raises to stop the write.
        content_type: Media type of ``value``.

    Attributes:
        refusal: The gate's exception; aiohttp reports it as a broken connection.
    """

    def __init__(self, value: bytes, *, gate: Gate, content_type: str) -> None:
        super().__init__(value, content_type=content_type)
        self._gate = gate
        self.refusal: Exception | None = None

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Ask the gate, then send; see ``BytesPayload``."""
        try:
            self._gate()
        except Exception as error:
            self.refusal = error
            raise
        await super().write_with_length(writer, content_length)
