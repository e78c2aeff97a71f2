"""Rows between the sources and the sides: text on disk, digests in memory.

A data set may be larger than the pod's memory. Memory holds about 140 bytes a row: digests, side,
place. The text goes to a file in the order of reading, its normalised prompt to a second file.
"""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from finetune_trainer.data.rows import Example, RowFile, Side, replace_group
from finetune_trainer.prepare.rows.normal import DIGEST_BYTES as NORMAL_BYTES
from finetune_trainer.prepare.rows.normal import earlier_learned, normalise_row, silence
from finetune_trainer.prepare.rows.prompt_file import PromptFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIGEST_BYTES = 32
SIDES = tuple(Side)
LOOSE = len(SIDES)
"""Code of a row whose side the split decides; other codes are positions in :data:`SIDES`."""
_TEST = SIDES.index(Side.TEST)
_BLOCK_BYTES = 1 << 24
BENCHMARK = LOOSE + 1
"""Code of a row of ``dataset.contamination.against``: compared with, never written."""


@dataclass(frozen=True, kw_only=True)
class RowKeys:
    """The compared values of rows, one entry per row.

    Attributes:
        positions: Places in the spool, ascending.
        groups: Group digests, dtype ``S32``.
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


@dataclass(frozen=True, kw_only=True)
class RowMarks:
    """Digests and places of rows, by position in the spool.

    Attributes:
        prompts: Digests of the normalised prompts, dtype ``S16``.
        rows: Digests of the normalised rows, dtype ``S16``.
        answers: Digests of the normalised answers, dtype uint64.
        is_label: The answer is as short as a label.
        files: Indexes into :attr:`file_names`.
        lines: Lines, as in :class:`finetune_trainer.data.rows.RawRow`.
        times: Microseconds since 1970; 0 where not needed.
        personal: Kinds of personal data, as bits.
        file_names: Files as the user knows them.
    """

    prompts: NDArray[np.bytes_]
    rows: NDArray[np.bytes_]
    answers: NDArray[np.uint64]
    is_label: NDArray[np.bool_]
    files: NDArray[np.uint32]
    lines: NDArray[np.uint32]
    times: NDArray[np.int64]
    personal: NDArray[np.uint16]
    file_names: tuple[str, ...]

    def place(self, position: int) -> tuple[str, int]:
        """Return file and line of a row."""
        return self.file_names[self.files[position]], int(self.lines[position])


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """Rows in the spool's format: digests for memory, and their text.

    Attributes:
        lines: JSON Lines of :meth:`Example.to_json`, UTF-8.
        groups: Their group digests, joined.
        contents: Their content digests, joined.
        sides: The codes of their sides, one byte each.
        prompts: Their normalised prompts, joined, in UTF-8.
        prompt_bytes: The lengths of these, as ``array("I")``.
        marks: Digests of normalised prompts, rows and answers, and flags of labels, each joined.
        files: Their files, as ``(name, rows)`` in order.
        places: Their lines, as ``array("I")``.
        times: Their times, as ``array("q")``.
        personal: Kinds of personal data in them, as ``array("H")``.
        turns: Digests before their earlier learned answers, joined.
        num_turns: How many of these each has, as ``array("I")``.
    """

    lines: bytes
    groups: bytes
    contents: bytes
    sides: bytes
    prompts: bytes
    prompt_bytes: bytes
    marks: tuple[bytes, bytes, bytes, bytes]
    files: tuple[tuple[str, int], ...]
    places: bytes
    times: bytes
    personal: bytes
    turns: bytes
    num_turns: bytes

    def __len__(self) -> int:
        return len(self.sides)


def pack_rows(examples: Sequence[Example], *, is_benchmark: bool = False) -> PackedRows:
    """Pack rows for another process; benchmark rows are only compared with."""
    normal = [normalise_row(example.row) for example in examples]
    prompts = [row.prompt.encode() for row in normal]
    return PackedRows(
        lines="".join(f"{example.to_json()}\n" for example in examples).encode(),
        groups=bytes.fromhex("".join(example.group for example in examples)),
        contents=bytes.fromhex("".join(example.content for example in examples)),
        sides=bytes(BENCHMARK if is_benchmark else _split_code(row.side) for row in examples),
        prompts=b"".join(prompts),
        prompt_bytes=array("I", map(len, prompts)).tobytes(),
        marks=(
            b"".join(row.prompt_digest for row in normal),
            b"".join(row.row_digest for row in normal),
            b"".join(row.answer_digest for row in normal),
            bytes(row.is_label for row in normal),
        ),
        files=tuple(
            (file, len(list(rows))) for file, rows in groupby(row.file for row in examples)
        ),
        places=array("I", (row.line for row in examples)).tobytes(),
        times=array("q", (row.time or 0 for row in examples)).tobytes(),
        personal=array("H", (row.personal for row in examples)).tobytes(),
        turns=b"".join(turn for row in normal for turn in row.turns),
        num_turns=array("I", (len(row.turns) for row in normal)).tobytes(),
    )


def _split_code(side: Side | None) -> int:
    return LOOSE if side is None else SIDES.index(side)


class Spool:
    """Collects rows; used as a context it closes and removes its files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: IO[bytes] = path.open("wb")
        self._prompts_path = path.with_suffix(".prompts")
        self._prompts: IO[bytes] = self._prompts_path.open("wb")
        self._groups = bytearray()
        self._contents = bytearray()
        self._sides = bytearray()
        self._prompt_bytes = array("I")
        self._marks = tuple(bytearray() for _ in range(4))
        self._file_numbers: dict[str, int] = {}
        self._files = array("I")
        self._places = array("I")
        self._times = array("q")
        self._personal = array("H")
        self._turns = bytearray()
        self._num_turns = array("I")

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._prompts.close()
        self._path.unlink(missing_ok=True)
        self._prompts_path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._sides)

    @property
    def folder(self) -> Path:
        """Where its files lie; others of the same life may lie beside them."""
        return self._path.parent

    def add(self, rows: PackedRows) -> None:
        """Take in the next rows."""
        self._stream.write(rows.lines)
        self._groups += rows.groups
        self._contents += rows.contents
        self._sides += rows.sides
        self._prompts.write(rows.prompts)
        self._prompt_bytes.frombytes(rows.prompt_bytes)
        for own, other in zip(self._marks, rows.marks, strict=True):
            own += other
        for file, number in rows.files:
            code = self._file_numbers.setdefault(file, len(self._file_numbers))
            self._files.extend([code] * number)
        self._places.frombytes(rows.places)
        self._times.frombytes(rows.times)
        self._personal.frombytes(rows.personal)
        self._turns += rows.turns
        self._num_turns.frombytes(rows.num_turns)

    def prompt_file(self, positions: NDArray[np.int64], folder: Path) -> PromptFile:
        """Write the normalised prompts of some rows, numbered in this order.

        No row may be added afterwards.
        """
        import numpy as np

        self._prompts.flush()
        lengths = np.frombuffer(self._prompt_bytes, dtype=np.uint32)
        ends = np.cumsum(lengths, dtype=np.int64)
        file = PromptFile(path=self._prompts_path, spans=folder / "prompts.npy")
        np.save(file.spans, np.stack([ends - lengths, ends], axis=1)[positions])
        return file

    def row_reader(self) -> Callable[[int], dict[str, Any]]:
        """Return the function that reads a row by its position; no row may be added afterwards."""
        import numpy as np

        self._stream.flush()
        ends = [np.zeros(1, dtype=np.int64)]
        with self._path.open("rb") as stream:
            start = 0
            while block := stream.read(_BLOCK_BYTES):
                ends.append(start + 1 + np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")))
                start += len(block)
            lines = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        places = np.concatenate(ends)

        def read(position: int) -> dict[str, Any]:
            row: dict[str, Any] = json.loads(lines[places[position] : places[position + 1]])
            return row

        return read

    def marks(self) -> RowMarks:
        """Return the digests of all rows; no row may be added afterwards."""
        import numpy as np

        prompts, rows, answers, is_label = self._marks
        return RowMarks(
            prompts=np.frombuffer(prompts, dtype=f"S{NORMAL_BYTES}"),
            rows=np.frombuffer(rows, dtype=f"S{NORMAL_BYTES}"),
            answers=np.frombuffer(answers, dtype=np.uint64),
            is_label=np.frombuffer(is_label, dtype=np.bool_),
            files=np.frombuffer(self._files, dtype=np.uint32),
            lines=np.frombuffer(self._places, dtype=np.uint32),
            times=np.frombuffer(self._times, dtype=np.int64),
            personal=np.frombuffer(self._personal, dtype=np.uint16),
            file_names=tuple(self._file_numbers),
        )

    def keys(self) -> RowKeys:
        """Return the keys of all rows; no row may be added afterwards."""
        import numpy as np

        return RowKeys(
            positions=np.arange(len(self), dtype=np.int64),
            groups=np.frombuffer(self._groups, dtype=f"S{DIGEST_BYTES}"),
            contents=np.frombuffer(self._contents, dtype=f"S{DIGEST_BYTES}"),
            sides=np.frombuffer(self._sides, dtype=np.uint8),
        )

    def turns(self) -> tuple[NDArray[np.int64], NDArray[np.bytes_]]:
        """Return the row and the digest of what stands before each earlier learned answer.

        The digests are those of :attr:`RowMarks.prompts`. No row may be added afterwards.
        """
        import numpy as np

        numbers = np.frombuffer(self._num_turns, dtype=np.uint32)
        owners = np.repeat(np.arange(len(self), dtype=np.int64), numbers)
        return owners, np.frombuffer(self._turns, dtype=f"S{NORMAL_BYTES}")

    def write_sides(
        self,
        folder: Path,
        positions: NDArray[np.int64],
        sides: NDArray[np.uint8],
        repeats: NDArray[np.uint8],
        groups: NDArray[np.bytes_] | None = None,
        silenced: Mapping[int, frozenset[int]] | None = None,
    ) -> Mapping[Side, RowFile]:
        """Write one file of JSON lines per side, its rows in the order of reading.

        Args:
            folder: Where to; a side without rows gets an empty file.
            positions: Remaining rows, ascending.
            sides: Code of each one's side.
            repeats: Number of copies of each one.
            groups: Group digest of each one, written to its metadata; None keeps the rows' own.
            silenced: Answers that get weight 0, by position of the row, counted from
                its first :func:`earlier_learned` one.
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
            raw = b"" if groups is None else groups.tobytes()
            starts = iter(range(0, len(raw), DIGEST_BYTES))
            for position, (code, number, line) in enumerate(zip(codes, times, lines, strict=True)):
                if code == LOOSE:
                    continue
                if silenced and position in silenced:
                    line = _silence_line(line, silenced[position])
                if groups is not None:
                    start = next(starts)
                    group = raw[start : start + DIGEST_BYTES].hex()
                    # A later job that seals these rows has to know their own groups.
                    line = replace_group(line, group, keep_own=code == _TEST)
                outputs[code].write(line * number)
        counts = np.bincount(sides, weights=repeats, minlength=len(SIDES)).astype(int).tolist()
        return {
            side: RowFile(path=path, num_rows=number)
            for side, path, number in zip(SIDES, paths, counts, strict=True)
        }


def _silence_line(line: bytes, answers: Collection[int]) -> bytes:
    row = json.loads(line)
    places = earlier_learned(row)
    row = silence(row, [places[answer] for answer in answers])
    return f"{json.dumps(row, ensure_ascii=False)}\n".encode()
