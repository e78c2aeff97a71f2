"""Stage ``prepare``: read, check, divide, count and version the data, before any GPU is asked for.

The result is one folder, ``datasets/<digest>/``, named by what went in. The same source and recipe
is not prepared twice, by whichever job; and the same input gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.trainer import PrepareResult, RowCounts
from finetune_trainer.data.checks import Finding, check_division, check_rows
from finetune_trainer.data.control import find_control_tokens
from finetune_trainer.data.examples import SourceRows, file_label, read_examples
from finetune_trainer.data.prepared import (
    REPORT_NAME,
    dataset_prefix,
    fetch_prepared,
    pointer_key,
)
from finetune_trainer.data.report import (
    DatasetPointer,
    DatasetReport,
    FileReport,
    SourceReport,
    SplitReport,
    report_findings,
    report_invalid_rows,
    report_tokens,
)
from finetune_trainer.data.rows import Example, RowError, Side
from finetune_trainer.data.sources import SourceFile, fetch_source, locate
from finetune_trainer.data.split import Division, divide_examples, draw_rows
from finetune_trainer.data.tokens import TokenStatistics, measure_tokens
from finetune_trainer.data.version import RECIPE_VERSION, compute_version
from finetune_trainer.errors import DataError, TrainerError
from finetune_trainer.storage import (
    MANIFEST_NAME,
    Manifest,
    OtherWriterWon,
    open_store,
    publish_folder,
)

if TYPE_CHECKING:
    from finetune_trainer.context import StageContext

CREATED_BY = "finetune-operator prepare"
NUM_ERRORS_SHOWN = 5
REFUSED_NAME = "invalid-rows.json"
PROGRESS_ROWS = 10_000
"""Rows between two progress events while tokens are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Input:
    """The sources as fetched and read."""

    files: list[list[SourceFile]]
    rows: list[SourceRows]

    @property
    def errors(self) -> list[RowError]:
        return [error for source in self.rows for error in source.errors]

    @property
    def examples(self) -> list[Example]:
        return [example for source in self.rows for example in source.examples]


def prepare(context: StageContext) -> PrepareResult:
    """Prepare the job's data set, or find it prepared, and point the run at it.

    Args:
        context: The stage's view of the world.

    Returns:
        What was found; ``reused`` tells that the data set was there already.

    Raises:
        UserError: The data set cannot be found or its settings do not fit it.
        DataError: The data is not good enough to train on; the message says what to change.
        StorageError: Storage failed.
    """
    files = _fetch_sources(context)
    _, model_revision = context.model_folder(include_weights=False)
    digest = compute_version(context.job.spec, files, model_revision=model_revision)
    reused = context.output.exists(f"{dataset_prefix(digest)}/{MANIFEST_NAME}")
    if reused:
        folder, manifest, report = fetch_prepared(context, digest)
        _require_answers(context, folder)
    else:
        report = _build(context, files, digest)
        _require_answers(context, _staging(context, digest))
        manifest, reused = _publish(context, digest)
        if reused:  # another job prepared the same data at the same time
            _, manifest, report = fetch_prepared(context, digest)
    _require_sides(report.rows)
    _write_pointer(context, report, manifest, model_revision)
    _tell(context, report, reused=reused)
    train = report.tokens[_tokenizer_name(context)][Side.TRAIN]
    return PrepareResult(
        digest=digest,
        uri=context.uri_of(dataset_prefix(digest)),
        rows=report.rows,
        num_tokens=train.tokens,
        num_invalid_rows=report.invalid_rows.total,
        num_truncated_rows=train.truncated_rows,
        reused=reused,
    )


def _fetch_sources(context: StageContext) -> list[list[SourceFile]]:
    fetched = []
    for index, source in enumerate(context.job.spec.dataset.sources):
        location = locate(source.uri)
        store = open_store(location.root, context.access(source.credentials_ref))
        folder = context.scratch(f"sources/{index}")
        files = fetch_source(source, store, location.key, folder)
        num_bytes = sum(file.num_bytes for file in files)
        context.emit.message(f"read {source.uri}: {len(files)} file(s), {num_bytes:,} bytes")
        fetched.append(files)
    return fetched


def _build(context: StageContext, files: list[list[SourceFile]], digest: str) -> DatasetReport:
    """Do the work of the stage and leave the data set in the staging folder."""
    dataset = context.job.spec.dataset
    tokenizer = context.load_tokenizer()
    conversational = bool(getattr(tokenizer, "chat_template", None))
    control_tokens = find_control_tokens(tokenizer)
    read = _Input(
        files=files,
        rows=[
            read_examples(
                source,
                files[index],
                index=index,
                label=_source_label(context, index),
                conversational=conversational,
                control_tokens=control_tokens,
            )
            for index, source in enumerate(dataset.sources)
        ],
    )
    _require_valid_rows(context, read.errors)
    if not read.examples:
        raise DataError(
            "EmptyDataset",
            f"there are no usable rows in {', '.join(s.uri for s in dataset.sources)} "
            f"({len(read.errors)} invalid rows); check the files",
        )
    rows, findings = check_rows(draw_rows(read.examples, dataset.max_rows, seed=dataset.split.seed))
    division = divide_examples(
        rows,
        test_percent=dataset.split.test_percent,
        validation_percent=dataset.split.validation_percent,
        seed=dataset.split.seed,
    )
    findings = [*findings, *check_division(division)]
    _require_sides(_count_rows(division))
    limit = context.job.spec.hyperparameters.max_sequence_length
    tokens = measure_tokens(
        division.sides,
        tokenizer,
        max_sequence_length=limit,
        on_progress=lambda done, total: _tell_progress(context, done, total),
    )
    report = _make_report(context, digest, read, division, findings, tokens)
    _write_folder(_staging(context, digest, fresh=True), division, report)
    return report


def _require_valid_rows(context: StageContext, errors: Sequence[RowError]) -> None:
    allowed = context.job.spec.dataset.max_invalid_rows
    if len(errors) <= allowed:
        return
    listing = report_invalid_rows(errors)
    key = f"{context.job.run_prefix}/{REFUSED_NAME}"
    try:
        context.output.write_bytes(key, (listing.model_dump_json(by_alias=True, indent=1)).encode())
        where = f"; the first {len(listing.first)} are listed in {context.uri_of(key)}"
    except TrainerError:
        where = ""  # the refusal itself matters more than its list
    shown = "; ".join(str(error) for error in errors[:NUM_ERRORS_SHOWN])
    totals = ", ".join(f"{reason} {count}" for reason, count in listing.by_reason.items())
    more = "; ..." if len(errors) > NUM_ERRORS_SHOWN else ""
    raise DataError(
        "InvalidRows",
        f"{len(errors)} invalid row(s), allowed are {allowed} (dataset.maxInvalidRows): "
        f"{shown}{more} [{totals}]{where}. Correct the rows, or raise dataset.maxInvalidRows to "
        f"leave them out",
    )


def _require_sides(rows: RowCounts) -> None:
    if rows.train == 0:
        raise DataError(
            "NoTrainRows",
            f"no row is left to train on (validation {rows.validation}, test {rows.test}); give a "
            "source with side: Split or side: Train",
        )
    if rows.test == 0:
        raise DataError(
            "NoTestRows",
            "no rows are held out to compare base and tuned model on; set "
            "dataset.split.testPercent above 0, or give a source with side: Test",
        )


def _require_answers(context: StageContext, folder: Path) -> None:
    """Refuse a goal that the held-out rows cannot answer, before anything is trained."""
    goal = context.job.spec.goal
    if goal is None or goal.metric in ("loss", "perplexity"):
        return
    with (folder / f"{Side.TEST}.jsonl").open(encoding="utf-8") as rows:
        if all("text" in json.loads(row) for row in rows):
            raise DataError(
                "MetricUnsuitable",
                f"goal.metric {goal.metric} compares answers, and every held-out row is plain text "
                "without one; use loss or perplexity, or hold out rows with answers",
            )


def _make_report(
    context: StageContext,
    digest: str,
    read: _Input,
    division: Division,
    findings: Sequence[Finding],
    tokens: dict[Side, TokenStatistics],
) -> DatasetReport:
    spec = context.job.spec
    split = spec.dataset.split
    return DatasetReport(
        digest=digest,
        recipe_version=RECIPE_VERSION,
        rows=_count_rows(division),
        sources=[_report_source(context, read, index) for index in range(len(read.files))],
        invalid_rows=report_invalid_rows(read.errors),
        checks=report_findings(findings),
        split=SplitReport(
            test_percent=split.test_percent,
            validation_percent=split.validation_percent,
            seed=split.seed,
            groups=division.num_groups,
            rows_drawn=sum(len(rows) for rows in division.sides.values()),
        ),
        max_sequence_length=spec.hyperparameters.max_sequence_length,
        tokens={
            _tokenizer_name(context): {
                side.value: report_tokens(statistics) for side, statistics in tokens.items()
            }
        },
    )


def _report_source(context: StageContext, read: _Input, index: int) -> SourceReport:
    source, rows = context.job.spec.dataset.sources[index], read.rows[index]
    label = _source_label(context, index)
    return SourceReport(
        files=[
            FileReport(
                name=file.name,
                bytes=file.num_bytes,
                sha256=file.sha256,
                rows=rows.num_rows_of_file.get(file_label(label, file.name), 0),
            )
            for file in read.files[index]
        ],
        side=source.side,
        format=rows.recognised.format if rows.recognised else None,
        format_reason=rows.recognised.reason if rows.recognised else "it has no readable rows",
        rows=len(rows.examples),
        invalid_rows=len(rows.errors),
    )


def _write_folder(folder: Path, division: Division, report: DatasetReport) -> None:
    for side, rows in division.sides.items():
        with (folder / f"{side}.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(f"{example.to_json()}\n" for example in rows)
    (folder / REPORT_NAME).write_text(
        report.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8"
    )


def _publish(context: StageContext, digest: str) -> tuple[Manifest, bool]:
    """Publish the staged folder; the flag tells that another writer was first."""
    sources = context.job.spec.dataset.sources
    try:
        manifest = publish_folder(
            context.output,
            dataset_prefix(digest),
            _staging(context, digest),
            created_by=CREATED_BY,
            inputs={f"sources[{index}]": source.uri for index, source in enumerate(sources)},
        )
    except OtherWriterWon:
        return Manifest(files=()), True
    return manifest, False


def _write_pointer(
    context: StageContext, report: DatasetReport, manifest: Manifest, model_revision: str
) -> None:
    prefix = dataset_prefix(report.digest)
    pointer = DatasetPointer(
        digest=report.digest,
        uri=context.uri_of(prefix),
        prefix=prefix,
        manifest_digest=manifest.digest,
        rows=report.rows,
        sources=[source.uri for source in context.job.spec.dataset.sources],
        model_revision=model_revision,
    )
    body = pointer.model_dump_json(by_alias=True, indent=1) + "\n"
    context.output.write_bytes(pointer_key(context.job), body.encode())


def _tell(context: StageContext, report: DatasetReport, *, reused: bool) -> None:
    rows, tell = report.rows, context.emit.message
    verb = "reused" if reused else "prepared"
    tell(
        f"{verb} data set {report.digest[:12]}: {rows.train} train, {rows.validation} validation, "
        f"{rows.test} test rows"
    )
    for source in report.sources:
        tell(f"{source.rows} rows of format {source.format or 'unknown'}: {source.format_reason}")
    if report.invalid_rows.total:
        totals = ", ".join(f"{k} {v}" for k, v in report.invalid_rows.by_reason.items())
        tell(f"left out {report.invalid_rows.total} invalid rows ({totals}); see {REPORT_NAME}")
    for check in report.checks:
        if check.message:
            tell(check.message)
    for side, tokens in report.tokens[_tokenizer_name(context)].items():
        if tokens.truncated_rows:
            tell(
                f"{tokens.truncated_rows} of {tokens.rows} {side} rows exceed "
                f"maxSequenceLength {report.max_sequence_length} and are cut (p95 {tokens.p95}, "
                f"longest {tokens.longest}); {tokens.rows_without_answer} lose their whole answer"
            )


def _tell_progress(context: StageContext, done: int, total: int) -> None:
    if done == total or done % PROGRESS_ROWS == 0:
        context.emit.progress(step=done, total_steps=total, message="counting tokens")


def _count_rows(division: Division) -> RowCounts:
    sizes = {side: len(rows) for side, rows in division.sides.items()}
    return RowCounts(
        train=sizes[Side.TRAIN], validation=sizes[Side.VALIDATION], test=sizes[Side.TEST]
    )


def _source_label(context: StageContext, index: int) -> str:
    return f"sources[{index}]" if len(context.job.spec.dataset.sources) > 1 else ""


def _tokenizer_name(context: StageContext) -> str:
    model = context.job.spec.model
    return f"{model.uri}@{model.revision}"


def _staging(context: StageContext, digest: str, *, fresh: bool = False) -> Path:
    return context.scratch(f"staging/{digest[:16]}", fresh=fresh)
