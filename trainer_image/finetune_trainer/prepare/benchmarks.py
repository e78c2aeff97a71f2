"""Reads ``dataset.contamination.against``: rows for comparison, never for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from finetune_api.v1alpha1.spec.dataset import Benchmark, Source
from finetune_trainer.data.rows import Example, RawRow, RowError
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.checks.screening import RowStep, Screening
from finetune_trainer.prepare.intake import cut_pieces
from finetune_trainer.prepare.reading.examples import open_source
from finetune_trainer.prepare.reading.sources import SourceFile
from finetune_trainer.prepare.rows.spool import Spool, pack_rows


def as_source(benchmark: Benchmark) -> Source:
    """Return the source that a benchmark is read as."""
    return Source(
        uri=benchmark.uri,
        format=benchmark.format,
        columns=benchmark.columns,
        template=benchmark.template,
        credentials_ref=benchmark.credentials_ref,
    )


def read_benchmarks(
    benchmarks: Sequence[Benchmark],
    files: Sequence[Sequence[SourceFile]],
    spool: Spool,
    *,
    conversational: bool,
    steps: Sequence[RowStep],
) -> None:
    """Read the rows of all benchmarks into the spool.

    Args:
        benchmarks: ``dataset.contamination.against``.
        files: The fetched files of each.
        spool: Where the rows go.
        conversational: The model's tokenizer has a chat template.
        steps: The row steps of the job. A row that they refuse is compared as it is.

    Raises:
        DataError: ``BenchmarkUnreadable``: a row cannot be read. Or as :func:`open_source`.
        UserError: As :func:`open_source`.
    """
    for index, (benchmark, fetched) in enumerate(zip(benchmarks, files, strict=True)):
        where = f"dataset.contamination.against[{index}]"
        opened = open_source(
            as_source(benchmark),
            fetched,
            index=index,
            where=where,
            label=where,
            conversational=conversational,
        )
        convert = opened.conversion.build() if opened.conversion is not None else None
        num_rows = 0
        for piece in cut_pieces(opened.rows):
            kept = [_read_row(convert, file, row, where) for file, row in piece]
            spool.add(pack_rows(_screen(kept, steps), is_benchmark=True))
            num_rows += len(kept)
        if not num_rows:
            raise DataError("BenchmarkUnreadable", f"{where} has no rows; check its uri")


def _read_row(
    convert: Callable[[str, RawRow], Example | RowError] | None,
    file: str,
    row: RawRow | RowError,
    where: str,
) -> Example:
    outcome = convert(file, row) if convert is not None and isinstance(row, RawRow) else row
    if isinstance(outcome, Example):
        return outcome
    problem = outcome if isinstance(outcome, RowError) else f"{file}: it has no readable rows"
    raise DataError(
        "BenchmarkUnreadable",
        f"a row of {where} cannot be read, so nothing can be compared with it: {problem}. Correct "
        "the row, or the format, columns or template of this benchmark",
    )


def _screen(examples: Sequence[Example], steps: Sequence[RowStep]) -> list[Example]:
    screening = Screening(steps)
    screened = [(example, screening.screen(example)) for example in examples]
    return [new if isinstance(new, Example) else old for old, new in screened]
