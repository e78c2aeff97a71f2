"""The file of all rows that cannot be used, written while they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

from finetune_trainer.data.rows import SNIPPET_CHARACTERS, RowError


class InvalidRowFile:
    """Writes one JSON line for each invalid row; a context that closes it.

    A line has ``file``, ``line``, ``reason``, ``message`` and ``snippet`` (the row's beginning).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: IO[str] | None = None

    def __enter__(self) -> InvalidRowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, error: RowError) -> None:
        """Write one more row."""
        if self._stream is None:
            self._stream = self.path.open("w", encoding="utf-8", newline="\n")
        line = {
            "file": error.file,
            "line": error.line,
            "reason": error.reason,
            "message": error.message,
            "snippet": error.snippet[:SNIPPET_CHARACTERS],
        }
        # In ASCII, because a row may hold half of a surrogate pair.
        self._stream.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Write pending lines; no row may be added afterwards."""
        if self._stream is not None:
            self._stream.close()
