"""Looks at a user's data file to propose format, columns and metric."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from finetune_cli.errors import CliError

NUM_PROBED_ROWS = 200
"""Rows looked at; enough to tell labels from texts."""

MAX_LABELS = 100
MAX_LABEL_CHARACTERS = 40

PROMPT_NAMES = [
    "prompt",
    "instruction",
    "question",
    "query",
    "input",
    "text",
    "headline",
    "sentence",
    "utterance",
    "title",
    "facts",
    "mr",
    "source",
]
COMPLETION_NAMES = [
    "completion",
    "response",
    "answer",
    "output",
    "label",
    "category",
    "intent",
    "class",
    "sentiment",
    "target",
    "reference",
    "ref",
    "summary",
    "description",
    "translation",
]
GROUP_NAMES = [
    "group",
    "conversation_id",
    "customer_id",
    "user_id",
    "session_id",
    "thread_id",
    "document_id",
]

FIELDS_OF_FORMAT = {
    "Chat": ("messages",),
    "ShareGPT": ("conversations",),
    "PromptCompletion": ("prompt", "completion"),
    "Alpaca": ("instruction", "output"),
    "Text": ("text",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataGuess:
    """What a data file seems to hold.

    Attributes:
        format: Of the API's formats.
        fields: Field or column names seen.
        prompt: Column of the input, for ``Csv``.
        completion: Column of the answer, for ``Csv``.
        group: Column that should stay together, if one looks like it.
        has_labels: The answers are few and short: a classification.
        num_rows: Rows looked at.
    """

    format: str
    fields: tuple[str, ...]
    prompt: str | None = None
    completion: str | None = None
    group: str | None = None
    has_labels: bool = False
    num_rows: int = 0


def inspect_data(path: Path) -> DataGuess:
    """Look at the first rows of a file.

    Raises:
        CliError: The file is missing, empty, or of a kind that is not read.
    """
    try:
        rows = list(islice(_rows(path), NUM_PROBED_ROWS))
    except FileNotFoundError as error:
        raise CliError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CliError(f"cannot read {path}: {error}") from error
    if not rows:
        raise CliError(f"{path} holds no rows")
    return guess_format(rows, is_table=path.suffix.lower() in (".csv", ".tsv"))


def guess_format(rows: list[dict[str, Any]], *, is_table: bool) -> DataGuess:
    """Choose the format by the fields of the first row, columns by their names."""
    fields = tuple(rows[0])
    group = next((name for name in fields if name.lower() in GROUP_NAMES), None)
    for name, needed in FIELDS_OF_FORMAT.items():
        if all(field in fields for field in needed) and not (name == "Text" and len(fields) > 1):
            answers = [str(row.get(needed[-1], "")) for row in rows] if len(needed) == 2 else []
            return DataGuess(
                format=name,
                fields=fields,
                group=group,
                has_labels=_are_labels(answers),
                num_rows=len(rows),
            )
    if len(fields) < 2:
        if not is_table:
            known = "; ".join(f"{n}: {', '.join(f)}" for n, f in FIELDS_OF_FORMAT.items())
            raise CliError(f"cannot tell what the field {fields} means; known fields are {known}")
        return DataGuess(format="Text", fields=fields, num_rows=len(rows))
    completion = _named(fields, COMPLETION_NAMES) or fields[-1]
    others = tuple(name for name in fields if name != completion)
    return DataGuess(
        format="Csv",
        fields=fields,
        prompt=_named(others, PROMPT_NAMES) or others[0],
        completion=completion,
        group=group,
        has_labels=_are_labels([str(row.get(completion, "")) for row in rows]),
        num_rows=len(rows),
    )


def _named(fields: tuple[str, ...], names: list[str]) -> str | None:
    lowered = {field.lower(): field for field in fields}
    return next((lowered[name] for name in names if name in lowered), None)


def _are_labels(answers: list[str]) -> bool:
    distinct = set(answers)
    return (
        0 < len(distinct) <= min(MAX_LABELS, len(answers) // 2)
        and max(map(len, distinct)) <= MAX_LABEL_CHARACTERS
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
    elif suffix in (".jsonl", ".ndjson"):
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _object(line, f"{path}:{number}")
    elif suffix == ".json":
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        rows = value.get("data", []) if isinstance(value, dict) else value
        yield from (row for row in rows if isinstance(row, dict))
    elif suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        raise CliError(
            f"{path}: {suffix or 'a file without ending'} is not read; use .jsonl, .json, .csv or "
            ".parquet"
        )


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise CliError(
            f"{path}: reading Parquet needs pyarrow; pip install 'finetune-operator[trainer]'"
        ) from error
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=NUM_PROBED_ROWS):
        yield from batch.to_pylist()


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise CliError(f"{place}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CliError(f"{place}: a row is a JSON object, this is {type(value).__name__}")
    return value
