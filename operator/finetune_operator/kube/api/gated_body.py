"""The body of a write that asks, when its bytes are about to leave, whether they still may.

Between the decision to write and the write lie a token bucket, the credentials and the wait for a
free connection, TLS handshake included: seconds on a bad day. Asked only before those, a leader
that lost its lease meanwhile would write all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesPayload

Gate: TypeAlias = Callable[[], None]
"""Called before every write; raises to stop it."""


class GatedBody(BytesPayload):
    """Bytes that are sent only if the gate lets them.

    Headers may have left by then. A server that waits for a body that never comes acts on
    nothing, and aiohttp closes the connection.

    Args:
        value: What to send; not empty.
        gate: Raises to stop the write.
        content_type: Its media type.

    Attributes:
        refusal: What the gate raised; aiohttp reports it as a broken connection.
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
