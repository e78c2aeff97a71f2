"""A row at each point between a file and the prepared data set."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

SNIPPET_CHARACTERS = 80
"""How much of a bad row is shown."""

QUOTED_CHARACTERS = 2000
"""Characters of it to search for personal data before that: a value must be seen whole."""

NUM_ERRORS_KEPT = 100
"""Bad rows that are listed; all of them are counted."""


GROUP_DIGITS = 16
"""Digits of a group's digest that a prepared row names."""


RESPONSE_ID = "responseId"
ORIGIN = (RESPONSE_ID, "user", "time")
"""Metadata of a row from a captured answer: its id, the keyed hash of who got it, and when."""


class Side(StrEnum):
    """The sides of a data set; the value is the stem of the side's file."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRow:
    """A row of a file.

    ``line`` counts from 1: the first line in JSONL and CSV, else the position.
    """

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowError:
    """A row that cannot be used.

    Attributes:
        file: File as the user knows it.
        line: As in :class:`RawRow`.
        reason: CamelCase cause, stable; rows are totalled by it.
        message: The fault and, where it is not obvious, the remedy.
        snippet: Start of the row: :data:`QUOTED_CHARACTERS` before the search for personal data,
            then at most :data:`SNIPPET_CHARACTERS`.
    """

    file: str
    line: int
    reason: str
    message: str
    snippet: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(kw_only=True, slots=True)
class RowErrors:
    """Unusable rows: all counted by reason, the first :data:`NUM_ERRORS_KEPT` kept in order."""

    first: list[RowError] = field(default_factory=list)
    by_reason: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """All of them."""
        return self.by_reason.total()

    def add(self, error: RowError) -> None:
        """Count one more."""
        self.by_reason[error.reason] += 1
        if len(self.first) < NUM_ERRORS_KEPT:
            self.first.append(error)


def join_errors(several: Iterable[RowErrors]) -> RowErrors:
    """Put the errors of several sources together, in their order."""
    joined = RowErrors()
    for errors in several:
        joined.by_reason.update(errors.by_reason)
        joined.first += errors.first[: NUM_ERRORS_KEPT - len(joined.first)]
    return joined


class BadRow(Exception):  # noqa: N818 - what it says of the row, not of the program
    """A row cannot be brought into the canonical shape; becomes a :class:`RowError`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A usable row in canonical shape.

    Attributes:
        row: One of ``{"messages": [...]}``, ``{"prompt": ..., "completion": ...}`` (both message
            lists, or both strings for models without a chat template) and ``{"text": ...}``. A
            message has ``role`` and ``content``, and ``weight`` 0 if it is an answer that is not
            learned. Of a preference the ``completion`` is wanted and ``rejected`` is not; or
            ``label`` says whether the ``completion`` is wanted.
        file: Its file.
        line: As in :class:`RawRow`.
        side: The side of its source, or None when the split decides.
        group: Group digest: equal groups never lie on two sides.
        content: Digest of ``row``; equal for identical rows.
        time: Microseconds since 1970; None where not needed.
        personal: Kinds of personal data in it, one bit each.
        slices: The user's columns for slices, and digests of their values.
        origin: The captured answer that it comes from, by :data:`ORIGIN`; empty for rows of files.
        is_sealed: It is a row of ``dataset.anchor``.
    """

    row: dict[str, Any]
    file: str
    line: int
    side: Side | None
    group: str
    content: str
    time: int | None = None
    personal: int = 0
    slices: tuple[tuple[str, str], ...] = ()
    origin: Mapping[str, str | None] = field(default_factory=dict)
    is_sealed: bool = False

    def to_json(self) -> str:
        """Serialise as one line of the prepared data set, without the line break."""
        metadata: dict[str, Any] = {"source": self.file, "line": self.line}
        if self.slices:
            metadata["slices"] = dict(self.slices)
        metadata |= self.origin
        if self.is_sealed:
            metadata["sealed"] = True
        metadata["group"] = self.group[:GROUP_DIGITS]  # last: it may be replaced in the text
        return _dump({**self.row, "metadata": metadata})


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFile:
    """One side of a prepared data set on disk, read row by row.

    ``path`` is a file of JSON lines.
    """

    path: Path
    num_rows: int

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(json.loads, self.lines())

    def leave_out(self, positions: Sequence[int]) -> RowFile:
        """Write the file anew without the rows at these positions, which ascend, from 0."""
        if not positions:
            return self
        left_out = frozenset(positions)
        partial = self.path.with_name(f"{self.path.name}.partial")
        with partial.open("wb") as stream:
            for position, line in enumerate(self.lines()):
                if position not in left_out:
                    stream.write(line)
        partial.replace(self.path)
        return RowFile(path=self.path, num_rows=self.num_rows - len(left_out))

    def lines(self) -> Iterator[bytes]:
        """Yield the lines as they are, with their line breaks."""
        with self.path.open("rb") as stream:
            yield from stream


def make_example(
    row: dict[str, Any],
    *,
    file: str,
    line: int,
    side: Side | None,
    group_value: str | None,
    time: int | None = None,
    slices: tuple[tuple[str, str], ...] = (),
    origin: Mapping[str, str | None] | None = None,
) -> Example:
    """Wrap a canonical row and derive its digests.

    ``group_value`` None groups rows by identical prompt. The other arguments are as in
    :class:`Example`.

    Raises:
        BadRow: The row holds bytes that were not UTF-8, or half of a surrogate pair.
    """
    key = ["prompt", prompt_of(row)] if group_value is None else ["group", group_value]
    return Example(
        row=row,
        file=file,
        line=line,
        side=side,
        group=_digest(key),
        content=_digest(row),
        time=time,
        slices=slices,
        origin=origin or {},
    )


def slice_digest(value: str) -> str:
    """Return the stored digest of a value in a column for slices."""
    return _digest(["slice", value.strip()])[:GROUP_DIGITS]


def is_in_slice(row: Mapping[str, Any], column: str, value: str) -> bool:
    """Return whether a prepared row has a value in a column for slices."""
    kept = row.get("metadata", {}).get("slices", {})
    return bool(kept.get(column) == slice_digest(value))


def replace_group(line: bytes, group: str, *, keep_own: bool = False) -> bytes:
    """Return a line as :meth:`Example.to_json` writes it, and its break, with another group.

    ``keep_own`` writes the row's own group beside it, where that is another one.
    """
    name, end = b'"group": "', b'"}}\n'
    start = len(line) - len(end) - GROUP_DIGITS
    own, new = line[start : start + GROUP_DIGITS], group[:GROUP_DIGITS].encode()
    kept = b'"ownGroup": "' + own + b'", ' if keep_own and own != new else b""
    return line[: start - len(name)] + kept + name + new + end


def is_sealed(row: Mapping[str, Any]) -> bool:
    """Return whether a prepared row is one of ``dataset.anchor``."""
    return bool(row.get("metadata", {}).get("sealed"))


def open_sealed(row: dict[str, Any]) -> Example:
    """Return a row of a prepared test side as one that stays on it.

    Of its own group only the stored digits are known; the others are 0.

    Raises:
        KeyError: It has no source, line or group.
    """
    metadata = row["metadata"]
    own = str(metadata.get("ownGroup") or metadata["group"])
    example = make_example(
        {name: value for name, value in row.items() if name != "metadata"},
        file=metadata["source"],
        line=metadata["line"],
        side=Side.TEST,
        group_value=None,
        slices=tuple(metadata.get("slices", {}).items()),
    )
    origin = {name: metadata[name] for name in ORIGIN if name in metadata}
    group = own.ljust(len(example.group), "0")
    return replace(example, group=group, origin=origin, is_sealed=True)


def replace_row(example: Example, row: dict[str, Any]) -> Example:
    """Return the example with another row in its place, its digests derived anew.

    The user's group stays; a group by equal prompt follows the new prompt.

    Raises:
        BadRow: As :func:`make_example`.
    """
    by_prompt = example.group == _digest(["prompt", prompt_of(example.row)])
    group = _digest(["prompt", prompt_of(row)]) if by_prompt else example.group
    return replace(example, row=row, group=group, content=_digest(row))


def refuse_row(example: Example, reason: str, message: str) -> RowError:
    """Return the error of a readable row that cannot be used; ``message`` must not quote it."""
    return RowError(
        file=example.file,
        line=example.line,
        reason=reason,
        message=message,
        snippet=make_snippet(example.row),
    )


def prompt_of(row: dict[str, Any]) -> Any:
    """Return the part of a canonical row that is input: all but the last answer, or the text."""
    if "messages" in row:
        return without_weights(row["messages"][:-1])
    if "text" in row:
        return row["text"]
    earlier = row["completion"][:-1] if isinstance(row["prompt"], list) else ()
    return [*row["prompt"], *without_weights(earlier)] if earlier else row["prompt"]


def group_of(row: dict[str, Any]) -> str:
    """Return the group of a row: rows of one group are dependent."""
    return str(row.get("metadata", {}).get("group") or json.dumps(prompt_of(row)))


def answer_of(row: Mapping[str, Any]) -> str | None:
    """Return the text of a row's last answer; None for plain text, preferences and tool calls."""
    if "text" in row or "rejected" in row or "label" in row:
        return None
    answers = row["messages"] if "messages" in row else row["completion"]
    if isinstance(answers, str):
        return answers
    last = answers[-1]
    content = last.get("content")
    return content if isinstance(content, str) and not last.get("tool_calls") else None


def other_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a pair's worse answer, as a row of its own."""
    kept = {name: row[name] for name in ("prompt", "tools") if name in row}
    return {**kept, "completion": row["rejected"]}


def without_weights(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages for a chat template, without weights."""
    if not any("weight" in message for message in messages):
        return messages
    return [
        {key: value for key, value in message.items() if key != "weight"} for message in messages
    ]


def make_snippet(raw: object) -> str:
    """Quote the start of a row on one printable line, to be shielded and then shortened."""
    text = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False, default=str)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else " " for c in text[:QUOTED_CHARACTERS])


def shorten(text: str) -> str:
    """Shorten the start of a row for display."""
    if len(text) <= SNIPPET_CHARACTERS:
        return text
    return text[: SNIPPET_CHARACTERS - 3] + "..."


# Made once: json.dumps with settings would make one per call, three times per row.
_dump = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def _digest(value: object) -> str:
    try:
        return hashlib.sha256(_dump(value).encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise BadRow(
            "NotUtf8", "the text is not valid UTF-8; convert the file, for example with iconv"
        ) from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read one side of a prepared data set; an absent side is empty."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
