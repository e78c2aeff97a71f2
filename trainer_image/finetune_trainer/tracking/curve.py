"""Reads new lines of ``metrics.jsonl`` while another process writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune_trainer.tracking.content import Point, points_of_curve

PIECE_BYTES = 256 * 1024
"""Of a curve so much is read at once."""


class CurveReader:
    """The unread values of a curve file, which need not exist yet.

    The file is the queue, so memory stays bounded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def rewind(self) -> None:
        """Begin again."""
        self._offset = 0

    def pieces(self) -> Iterator[list[Point]]:
        """Yield new values, whole lines only.

        A piece counts as taken when the next one is requested; a reader that stops gets it again.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            if file.seek(0, 2) < self._offset:
                self._offset = 0  # a rank has taken back points that are trained again
            file.seek(self._offset)
            while lines := _whole_lines(file.read(PIECE_BYTES)):
                yield points_of_curve(lines.splitlines())
                self._offset += len(lines)
                file.seek(self._offset)


def _whole_lines(piece: bytes) -> bytes:
    return piece[: piece.rfind(b"\n") + 1]
