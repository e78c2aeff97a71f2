"""Looks at a user's data file to propose format, columns and metric.

The stage ``prepare`` reads the same file later, so this reads it with prepare's own reader and asks
prepare's own recognition: what is proposed here is accepted there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_cli.errors import CliError

if TYPE_CHECKING:
    from finetune_trainer.data.rows import RawRow

NUM_PROBED_ROWS = 200
"""Rows looked at; enough to tell labels from texts."""

MAX_LABELS = 100
MAX_LABEL_CHARACTERS = 40
MAX_COLUMN_CHARACTERS = 128
"""Longest column name that a job can hold."""

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

ANSWER_OF_FORMAT = {"PromptCompletion": "completion", "Alpaca": "output"}
"""Field of the answer, in formats whose answers may be labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataGuess:
    """What a data file seems to hold.

    Attributes:
        format: Of the API's formats.
        objective: Of the API's objectives: what such rows can teach.
        fields: Field or column names seen.
        prompt: Column of the input, for ``Csv``.
        completion: Column of the answer, for ``Csv``.
        text: Column of the text, for ``Text`` where it is not called so.
        group: Column that should stay together, if one looks like it.
        has_labels: The answers are few and short: a classification.
        num_rows: Rows looked at.
    """

    format: str
    fields: tuple[str, ...]
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    group: str | None = None
    has_labels: bool = False
    num_rows: int = 0
    objective: str = "SFT"


def inspect_data(path: Path) -> DataGuess:
    """Look at the first rows of a file.

    Raises:
        CliError: The file is missing, empty, of a kind that is not read, or its rows are nothing
            that can be learned from.
    """
    if not path.exists():
        raise CliError(f"{path}: no such file")
    if path.is_dir():
        raise CliError(f"{path} is a folder; name one of the files in it")
    rows = _read_first_rows(path)
    if not rows:
        raise CliError(f"{path} holds no rows")
    return guess_format(rows, where=str(path))


def guess_format(rows: Sequence[dict[str, Any]], *, where: str) -> DataGuess:
    """Choose the format as prepare's ``Auto`` does, and columns by their names.

    Args:
        rows: The first rows of a file; at least one.
        where: The file, for messages.

    Raises:
        CliError: The rows hold nothing that can be learned from.
    """
    from finetune_api.v1alpha1.dataset import Source
    from finetune_trainer.errors import DataError
    from finetune_trainer.prepare.reading.formats import recognise_format

    fields = tuple(dict.fromkeys(name for row in rows for name in row))
    objective = _objective_of(rows, fields)
    texts = [name for name in fields if _is_text_column(name, rows)]
    group = next((name for name in fields if _is_group_column(name, rows)), None)
    recognised: str | None = None
    problem = f"{where}: none of the fields {', '.join(fields)} holds text that can be learned"
    try:
        source = Source(uri="file:///data")
        recognised = recognise_format(source, rows, where=where, objective=objective).format
    except DataError as error:
        problem = error.message
    if recognised == "Text" and texts != ["text"]:
        recognised = None  # more likely a table that has a column `text` among others
    if recognised is not None:
        answer = ANSWER_OF_FORMAT.get(recognised)
        return DataGuess(
            format=recognised,
            fields=fields,
            group=group,
            has_labels=answer is not None and _are_labels(rows, answer),
            num_rows=len(rows),
            objective=objective,
        )
    if not texts:
        raise CliError(problem)
    if len(texts) == 1:
        return DataGuess(
            format="Text", fields=fields, text=texts[0], group=group, num_rows=len(rows)
        )
    completion = _named(texts, COMPLETION_NAMES) or texts[-1]
    others = [name for name in texts if name != completion]
    return DataGuess(
        format="Csv",
        fields=fields,
        prompt=_named(others, PROMPT_NAMES) or others[0],
        completion=completion,
        group=group,
        has_labels=_are_labels(rows, completion),
        num_rows=len(rows),
    )


def _objective_of(rows: Sequence[dict[str, Any]], fields: tuple[str, ...]) -> str:
    """Return what the rows can teach: pairs and verdicts are preferences, all else examples."""
    from finetune_trainer.prepare.reading.formats import are_verdicts

    if {"chosen", "rejected"} <= set(fields):
        return "DPO"
    return "KTO" if are_verdicts(rows) else "SFT"


def _read_first_rows(path: Path) -> list[dict[str, Any]]:
    from finetune_trainer.data.rows import RowError
    from finetune_trainer.errors import DataError
    from finetune_trainer.prepare.reading.encodings import UTF8, choose_encoding
    from finetune_trainer.prepare.reading.file_types import is_text
    from finetune_trainer.prepare.reading.files import read_rows

    rows = []
    try:
        encoding = choose_encoding(path, file=str(path)) if is_text(path.name) else UTF8
        for row in islice(read_rows(path, file=str(path), encoding=encoding), NUM_PROBED_ROWS):
            if isinstance(row, RowError):
                raise CliError(f"{row}; correct the file", exit_code=DataError.exit_code)
            _check_encoding(row, path)
            rows.append(row.fields)
    except DataError as error:
        raise CliError(error.message, exit_code=error.exit_code) from error
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror or error}") from error
    except ImportError as error:
        raise CliError(
            f"reading {path} needs {error.name}; pip install 'finetune-operator[trainer]'"
        ) from error
    return rows


def _check_encoding(row: RawRow, path: Path) -> None:
    try:
        json.dumps(row.fields, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise CliError(
            f"{path}:{row.line}: the text is not valid UTF-8; convert the file, for example with "
            "iconv"
        ) from error


def _is_text_column(name: str, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether prepare can use the column as prompt, answer or text: it takes nothing but text."""
    values = [value for row in rows if (value := row.get(name)) is not None]
    return (
        _is_nameable(name)
        and all(isinstance(value, str) for value in values)
        and any(value.strip() for value in values)
    )


def _is_group_column(name: str, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether the column is called like a group and has a value in every row, as it then must."""
    return name.lower() in GROUP_NAMES and all(
        row.get(name) is not None and str(row[name]).strip() for row in rows
    )


def _is_nameable(name: str) -> bool:
    return len(name) <= MAX_COLUMN_CHARACTERS and name.splitlines() == [name]


def _named(fields: Sequence[str], names: list[str]) -> str | None:
    lowered = {field.lower(): field for field in fields}
    return next((lowered[name] for name in names if name in lowered), None)


def _are_labels(rows: Sequence[dict[str, Any]], column: str) -> bool:
    answers = [str(row.get(column, "")) for row in rows]
    distinct = set(answers)
    return (
        0 < len(distinct) <= min(MAX_LABELS, len(answers) // 2)
        and max(map(len, distinct)) <= MAX_LABEL_CHARACTERS
    )
