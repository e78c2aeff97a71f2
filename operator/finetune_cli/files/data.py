"""Reads a data file to propose its format, row lengths and a metric.

It uses the reader, recognition, conversion and checks of the stage ``prepare``, so both accept and
refuse the same files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from finetune_cli.errors import CliError

if TYPE_CHECKING:
    from finetune_api.v1alpha1.spec.dataset import Source
    from finetune_trainer.data.rows import Example, RawRow, RowError
    from finetune_trainer.prepare.reading.examples import OpenSource
    from finetune_trainer.prepare.reading.lengths import RowLength
    from finetune_trainer.prepare.reading.proposals import Proposal
    from finetune_trainer.prepare.reading.sources import SourceFile

NUM_PROBED_ROWS = 200
"""Rows that the proposal is made of; enough to tell labels from texts."""

NUM_READ_ROWS = 20_000
"""Rows that are read in the proposed way, to see that they can be and how long they are."""

NUM_READ_FILES = 8
"""Files of a folder that are looked at, in the order of their names."""

NUM_READ_TEXTS = 2_000
"""The same of a folder of plain text, whose files are short."""

NUM_ERRORS_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class DataGuess:
    """The apparent content of a data file.

    Attributes:
        encodings: Names of encodings that are not UTF-8.
        longest: Estimated tokens of the longest row without outliers, rather too many than too few.
        outliers: Rows that are far longer than all others.
        has_tools: Whether rows offer or call tools.
        unread: Fields with text or lists that are left out.
        unlike: A sentence for each file that has other columns than the first.
    """

    proposal: Proposal
    header: str
    encodings: tuple[str, ...]
    num_rows: int
    is_whole: bool
    longest: int
    outliers: tuple[RowLength, ...] = ()
    has_tools: bool = False
    unread: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()


def inspect_data(path: Path) -> DataGuess:
    """Read the first rows of a file, or of several.

    Args:
        path: A file, a folder, or a pattern of files.

    Raises:
        CliError: The file is missing, empty, of an unknown kind, or its rows cannot be trained on.
    """
    from finetune_trainer.data.rows import RawRow, RowError
    from finetune_trainer.prepare.reading.examples import open_source, refuse_unwanted_row
    from finetune_trainer.prepare.reading.files.encodings import UTF8
    from finetune_trainer.prepare.reading.files.file_types import is_plain
    from finetune_trainer.prepare.reading.lengths import RowLength, estimate_tokens, part_outliers
    from finetune_trainer.prepare.reading.proposals import propose_reading
    from finetune_trainer.prepare.reading.sources import describe_file

    lengths: list[RowLength] = []
    unread: dict[str, None] = {}
    errors: list[RowError] = []
    has_tools = False
    with _explaining(path):
        paths = _find_files(path)
        most = NUM_READ_TEXTS if is_plain(paths[0].name) else NUM_READ_FILES
        files = [describe_file(one, name=str(one)) for one in paths[:most]]
        header, rows = _read_first_rows(files)
        proposal = propose_reading(rows, where=str(path))
        source, objective = proposal.make_source("file:///data", header=header), proposal.objective
        opened = open_source(
            source, files, index=0, label="", conversational=True, objective=objective
        )
        assert opened.conversion is not None  # there are rows
        find_unread = opened.conversion.find_unread()
        outcomes = _convert(opened, source, objective)
        for name, row, outcome in islice(outcomes, NUM_READ_ROWS):
            if objective == "SFT" and isinstance(row, RawRow):
                # The proposed format trains on them.
                outcome = refuse_unwanted_row(name, row, source.format) or outcome
            if isinstance(outcome, RowError):
                errors.append(outcome)
            elif outcome is not None and isinstance(row, RawRow):
                tokens = estimate_tokens(outcome.row)
                lengths.append(RowLength(file=name, line=row.line, num_tokens=tokens))
                has_tools |= "tools" in outcome.row
                unread.update(dict.fromkeys(find_unread(row.fields)))
        if errors:
            raise _refuse(errors, num_good=len(lengths))
        is_whole = next(outcomes, None) is None and len(paths) == len(files)
        bulk = part_outliers(lengths)
    others = [
        file.encoding.name for file in files if file.encoding and file.encoding.codec != UTF8.codec
    ]
    return DataGuess(
        proposal=proposal,
        header=header,
        encodings=tuple(dict.fromkeys(others)),
        names=tuple(file.name for file in files),
        num_rows=len(lengths),
        is_whole=is_whole,
        longest=bulk.longest,
        outliers=bulk.outliers,
        has_tools=has_tools,
        unread=tuple(unread),
        unlike=_find_unlike(files, header),
    )


def _find_unlike(files: list[SourceFile], header: str) -> tuple[str, ...]:
    """Name the files whose first rows have other columns than the first file."""
    columns = {}
    for file in files:
        rows = _read_some(file, header, skips_errors=True) if len(files) > 1 else []
        columns[file.name] = list(dict.fromkeys(name for row in rows for name in row))
    first, *others = columns.items()
    told = []
    for name, seen in others:
        more = ", ".join(each for each in seen if each not in first[1])
        less = ", ".join(each for each in first[1] if each not in seen)
        words = [f"it also has {more}"] * bool(more) + [f"it lacks {less}"] * bool(less)
        if words:
            told.append(f"{name} has other columns than {first[0]}: {' and '.join(words)}.")
    return tuple(told)


def propose_source(path: Path) -> tuple[Source, str]:
    """Return the format of files, by the first one, and the objective.

    Bad rows at the start are skipped: a reader of all rows reports them.

    Raises:
        CliError: The file is missing, empty, of an unknown kind, or its rows cannot be trained on.
    """
    from finetune_trainer.prepare.reading.proposals import propose_reading
    from finetune_trainer.prepare.reading.sources import describe_file

    with _explaining(path):
        files = [describe_file(one, name=str(one)) for one in _find_files(path)[:NUM_READ_FILES]]
        header, rows = _read_first_rows(files, skips_errors=True)
        proposal = propose_reading(rows, where=str(path))
    source = proposal.make_source(_uri_of(path), header=header)
    return source, proposal.objective


def read_whole(path: Path) -> Iterator[Example]:
    """Yield the rows of a file as a job would have them before the split.

    Unusable rows and rows that a row step removes are left out.

    Raises:
        CliError: As :func:`propose_source`.
    """
    from finetune_trainer.data.rows import RowError
    from finetune_trainer.prepare.reading.examples import open_source
    from finetune_trainer.prepare.reading.sources import describe_file

    source, objective = propose_source(path)
    with _explaining(path):
        files = [describe_file(one, name=one.name) for one in _find_files(path)]
        opened = open_source(
            source, files, index=0, label="", conversational=True, objective=objective
        )
        for _, _, outcome in _convert(opened, source, objective):
            if outcome is not None and not isinstance(outcome, RowError):
                yield outcome


def _find_files(path: Path) -> list[Path]:
    from finetune_trainer.prepare.reading.sources import find_files, locate
    from finetune_trainer.storage import local_path, open_store

    if path.is_file():
        return [path]
    if not path.exists() and not set("*?") & set(str(path)):
        raise CliError(f"{path}: no such file")
    location = locate(_uri_of(path))
    store = open_store(location.root)
    folder = local_path(location.root)
    return [folder / key for key in find_files(str(path), store, location)]


def find_skipped(path: Path) -> list[str]:
    """Return the folders below a folder that are not looked into; of a file there are none."""
    from finetune_trainer.prepare.reading import sources

    return sources.find_skipped(sources.locate(_uri_of(path))) if path.is_dir() else []


def format_words(format_: str, names: Iterable[str]) -> str:
    """Return a format of the API for people: rows of JSON with columns are called Csv there."""
    endings = {name.lower().removesuffix(".gz").rpartition(".")[2] for name in names}
    if format_ == "Csv" and endings and endings <= {"json", "jsonl", "ndjson", "parquet", "xlsx"}:
        return f"table from {' and '.join(sorted(endings))} (written format: Csv)"
    return format_


def _uri_of(path: Path) -> str:
    return f"file://{quote(str(path.absolute()), safe='/*?')}"


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    from finetune_trainer.errors import TrainerError

    try:
        yield
    except TrainerError as error:
        raise CliError(error.message, exit_code=error.exit_code) from error
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror or error}") from error
    except ImportError as error:
        raise CliError(
            f"reading {path} needs {error.name}; pip install 'finetune-operator[trainer]'"
        ) from error


def _read_first_rows(
    files: list[SourceFile], *, skips_errors: bool = False
) -> tuple[str, list[dict[str, Any]]]:
    """Return whether the first row names the columns, as the API names it, and some rows.

    The rows are those of the first file, or of the first text that is not empty.

    Raises:
        CliError: There are none.
    """
    from finetune_trainer.errors import DataError
    from finetune_trainer.prepare.reading.files.file_types import is_plain

    for file in files:
        try:
            header, rows = "Auto", _read_some(file, "Auto", skips_errors=skips_errors)
        except DataError as error:
            if error.reason != "NoHeader":
                raise
            header, rows = "Absent", _read_some(file, "Absent", skips_errors=skips_errors)
        if rows or not is_plain(file.name):
            break
    if not rows:
        raise CliError(f"{files[0].name} holds no rows")
    return header, rows


def _read_some(file: SourceFile, header: str, *, skips_errors: bool) -> list[dict[str, Any]]:
    from finetune_trainer.data.rows import RowError
    from finetune_trainer.prepare.reading.files.encodings import UTF8
    from finetune_trainer.prepare.reading.files.files import read_rows

    rows = read_rows(file.path, file=file.name, encoding=file.encoding or UTF8, header=header)
    fields: list[dict[str, Any]] = []
    errors: list[RowError] = []
    for row in islice(rows, NUM_PROBED_ROWS):
        if not isinstance(row, RowError):
            fields.append(row.fields)
        else:
            errors.append(row)
            if not skips_errors:
                break
    if errors and not (skips_errors and fields):
        raise _refuse(errors, num_good=len(fields))
    return fields


def _convert(
    opened: OpenSource, source: Source, objective: str
) -> Iterator[tuple[str, RawRow | RowError, Example | RowError | None]]:
    """Yield rows with their file and what the row steps make of them; None removes a row."""
    from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
    from finetune_trainer.data.rows import RowError
    from finetune_trainer.prepare.checks.screening import Screening
    from finetune_trainer.prepare.steps import choose_steps

    spec = {
        "model": {"uri": "file:///model"},
        "dataset": {"sources": [source.to_wire()]},
        "method": {"objective": objective},
        "output": {"uri": "file:///out"},
    }
    screen = Screening(choose_steps(FineTuneJobSpec.model_validate(spec))).screen
    assert opened.conversion is not None  # there are rows
    convert = opened.conversion.build()
    for name, row in opened.rows:
        outcome = row if isinstance(row, RowError) else convert(name, row)
        yield name, row, outcome if isinstance(outcome, RowError) else screen(outcome)


def _refuse(errors: list[RowError], *, num_good: int) -> CliError:
    from finetune_trainer.errors import DataError

    shown = "; ".join(str(error) for error in errors[:NUM_ERRORS_SHOWN])
    more = f"; and {len(errors) - NUM_ERRORS_SHOWN} more" if len(errors) > NUM_ERRORS_SHOWN else ""
    return CliError(
        f"{shown}{more}; correct the file ({num_good} of the rows looked at can be used)",
        exit_code=DataError.exit_code,
    )
