"""Damaged files of examples: small, seeded changes of good ones, as damage and slips make them."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from typing import Any

PERSONAL = "jane.doe@mail.example"
"""Stands in some rows, and must be in nothing that is told of them."""

NAMES = ("rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.ndjson", "rows.jsonl.gz")
_BYTES = (
    b"\x00",
    b"\xff",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b'"',
    b"\\",
    b"\n",
    b"\r",
    b",",
    b"{",
    b"]",
)
_TEXTS = (
    "", " ", "\u200b", "\ufffd", "caf\u00c3\u00a9", "\x00", "\x1b[0m", "\ud800", "<|im_end|>",
    "a" * 3000, "\u202eabc", "{{ 7 }}", "null", "-1e999", "=1+1", "\U0001f600" * 40,
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1.5, 1e308, 10**40, [], {}, [[]], {"": {}}, [None], {"role": "user"},
    [{"role": "user", "content": None}], [{"role": "tool"}], [{"role": 7, "content": "x"}],
    [{"role": "assistant", "content": "x", "weight": 2}], [{"type": [1], "text": "x"}],
    [{"type": PERSONAL, "text": "x"}], [{"role": PERSONAL, "content": PERSONAL}],
)  # fmt: skip
_KEYS = ("prompt", "completion", "messages", "text", "tools", "label", "rejected", "", "metadata")


def make_file(seed: int) -> tuple[str, bytes]:
    """Return name and content of a damaged file."""
    rng = random.Random(seed)
    rows = [_row(rng, number) for number in range(rng.randint(0, 30))]
    for _ in range(rng.randint(0, 4)):
        if rows:
            _damage_row(rng, rows[rng.randrange(len(rows))])
    name = rng.choice(NAMES)
    data = _write(rng, name, rows)
    for _ in range(rng.choice((0, 0, 1, 3))):
        data = rng.choice(_DAMAGES)(rng, data)
    return name, data


def _row(rng: random.Random, number: int) -> dict[str, Any]:
    question, answer = f"What is {number}?", f"It is {number}."
    if rng.random() < 0.2:
        question += f" Write to {PERSONAL}"
    if rng.random() < 0.5:
        return {"prompt": question, "completion": answer}
    roles = ("system", "user", "assistant")
    texts = ("Be brief.", question, answer)
    return {
        "messages": [
            {"role": role, "content": text} for role, text in zip(roles, texts, strict=True)
        ]
    }


def _damage_row(rng: random.Random, row: dict[str, Any]) -> None:
    what = rng.randrange(5)
    key = rng.choice([*row, *_KEYS])
    if what == 0:
        row.pop(key, None)
    elif what == 1:
        row[key] = rng.choice(_TEXTS)
    elif what == 2:
        row[key] = rng.choice(_VALUES)
    elif what == 3 and isinstance(row.get("messages"), list):
        rng.shuffle(row["messages"])
    elif isinstance(row.get("messages"), list) and row["messages"]:
        message = rng.choice(row["messages"])
        if isinstance(message, dict):
            message[rng.choice(("role", "content", "weight", "tool_calls", "name"))] = rng.choice(
                (*_TEXTS, *_VALUES)
            )


def _write(rng: random.Random, name: str, rows: list[dict[str, Any]]) -> bytes:
    if name.endswith((".csv", ".tsv")):
        stream = io.StringIO()
        fields = sorted({key for row in rows for key in row})
        delimiter = "\t" if name.endswith(".tsv") else rng.choice(",;|")
        writer = csv.DictWriter(stream, fields, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue().encode("utf-8", "surrogatepass")
    if name == "rows.json":
        return json.dumps(rows).encode()
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(_BYTES) + data[at:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + data[at : at + rng.randint(0, 200)] * 3 + data[at:]


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _recode(rng: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-16", "utf-16-le", "latin-1", "cp1252")), "replace")


def _end_lines_as_windows(_: random.Random, data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


_DAMAGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _cut, _insert, _repeat, _flip, _recode, _end_lines_as_windows,
)  # fmt: skip
