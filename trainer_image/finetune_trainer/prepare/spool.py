"""Rows on their way from the sources to the sides: text on disk, digests in memory.

A data set may be larger than the pod's memory. Of each row only what checks and division compare is
kept: two digests and a side, 65 bytes. The text goes to a file, in the order of reading, and is
distributed to the sides in a second pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from finetune_trainer.data.rows import Example, RowFile, Side

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIGEST_BYTES = 32
SIDES = tuple(Side)
LOOSE = len(SIDES)
"""Code of a row whose side the split decides; other codes are positions in :data:`SIDES`."""


@dataclass(frozen=True, kw_only=True)
class RowKeys:
    """What is compared of rows, one entry per row.

    Attributes:
        positions: Where the rows stand in the spool, ascending.
        groups: Digests of what keeps rows together, dtype ``S32``.
        contents: Digests of the rows, dtype ``S32``.
        sides: Codes of the sides that sources are bound to, or :data:`LOOSE`; dtype uint8.
    """

    positions: NDArray[np.int64]
    groups: NDArray[np.bytes_]
    contents: NDArray[np.bytes_]
    sides: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, indexes: NDArray[np.int64]) -> RowKeys:
        """Return the rows at these indexes, which ascend."""
        return RowKeys(
            positions=self.positions[indexes],
            groups=self.groups[indexes],
            contents=self.contents[indexes],
            sides=self.sides[indexes],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """Rows as the spool takes them in: what :class:`RowKeys` holds of them, and their text.

    Attributes:
        lines: The rows as :meth:`Example.to_json` writes them, each with its line break, in UTF-8.
        groups: Their group digests, one after the other.
        contents: Their content digests.
        sides: The codes of their sides, one byte each.
    """

    lines: bytes
    groups: bytes
    contents: bytes
    sides: bytes

    def __len__(self) -> int:
        return len(self.sides)


def pack_rows(examples: Sequence[Example]) -> PackedRows:
    """Bring rows into the shape in which processes hand them on."""
    return PackedRows(
        lines="".join(f"{example.to_json()}\n" for example in examples).encode(),
        groups=bytes.fromhex("".join(example.group for example in examples)),
        contents=bytes.fromhex("".join(example.content for example in examples)),
        sides=bytes(
            LOOSE if example.side is None else SIDES.index(example.side) for example in examples
        ),
    )


class Spool:
    """Collects rows; used as a context it closes and removes its file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: IO[bytes] = path.open("wb")
        self._groups = bytearray()
        self._contents = bytearray()
        self._sides = bytearray()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._sides)

    def add(self, rows: PackedRows) -> None:
        """Take in the next rows."""
        self._stream.write(rows.lines)
        self._groups += rows.groups
        self._contents += rows.contents
        self._sides += rows.sides

    def keys(self) -> RowKeys:
        """Return what is compared of all rows; no row may be added afterwards."""
        import numpy as np

        return RowKeys(
            positions=np.arange(len(self), dtype=np.int64),
            groups=np.frombuffer(self._groups, dtype=f"S{DIGEST_BYTES}"),
            contents=np.frombuffer(self._contents, dtype=f"S{DIGEST_BYTES}"),
            sides=np.frombuffer(self._sides, dtype=np.uint8),
        )

    def write_sides(
        self,
        folder: Path,
        positions: NDArray[np.int64],
        sides: NDArray[np.uint8],
        repeats: NDArray[np.uint8],
    ) -> Mapping[Side, RowFile]:
        """Write one file of JSON lines per side, its rows in the order of reading.

        Args:
            folder: Where to; a side without rows gets an empty file.
            positions: Rows that remain, ascending.
            sides: Code of each one's side.
            repeats: How often each one is written.
        """
        import numpy as np

        self._stream.flush()
        code_of = np.full(len(self), LOOSE, dtype=np.uint8)
        code_of[positions] = sides
        repeats_of = np.zeros(len(self), dtype=np.uint8)
        repeats_of[positions] = repeats
        paths = [folder / f"{side}.jsonl" for side in SIDES]
        with ExitStack() as stack:
            outputs = [stack.enter_context(path.open("wb")) for path in paths]
            lines = stack.enter_context(self._path.open("rb"))
            codes, times = code_of.tobytes(), repeats_of.tobytes()
            for code, number, line in zip(codes, times, lines, strict=True):
                if code != LOOSE:
                    outputs[code].write(line * number)
        counts = np.bincount(sides, weights=repeats, minlength=len(SIDES)).astype(int).tolist()
        return {
            side: RowFile(path=path, num_rows=number)
            for side, path, number in zip(SIDES, paths, counts, strict=True)
        }
