"""Requests, as the API server's audit log has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson


class AuditLog:
    """The API server's audit log from a mark on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def mark(self) -> None:
        """Count only what comes from now on."""
        self._offset = self._path.stat().st_size if self._path.exists() else 0

    def entries(self, user_agent: str = "") -> list[dict[str, Any]]:
        """Return the complete requests since the mark, of one user agent if named."""
        return list(self.read(user_agent))

    def read(self, user_agent: str = "") -> Iterator[dict[str, Any]]:
        """Yield what `entries` returns, for logs that are larger than memory."""
        with self._path.open("rb") as log:
            log.seek(self._offset)
            for line in log:
                if not line.endswith(b"\n") or user_agent.encode() not in line:
                    continue
                entry = orjson.loads(line)
                if entry.get("stage") == "ResponseComplete" and entry.get("objectRef"):
                    yield entry
