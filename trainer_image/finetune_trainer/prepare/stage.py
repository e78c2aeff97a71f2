"""Stage ``prepare``: read, check, divide, count and version the data, before any GPU is asked for.

The result is one folder, ``datasets/<digest>/``, named by what went in. The same source and recipe
is not prepared twice, by whichever job; and the same input gives the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.trainer import PrepareResult, ResolvedJob, limit_places
from finetune_api.v1alpha1.dataset import Source
from finetune_trainer.data.keys import dataset_prefix, pointer_key
from finetune_trainer.data.prepared import INVALID_ROWS_NAME, fetch_prepared
from finetune_trainer.data.report import (
    DatasetPointer,
    DatasetReport,
    place_row,
)
from finetune_trainer.data.rows import RowFile, Side
from finetune_trainer.data.token_files import TokenFiles, TokenTotals
from finetune_trainer.errors import DataError
from finetune_trainer.model.chat_format import own_template, write_format
from finetune_trainer.model.encoding import Encoder, make_encoder
from finetune_trainer.prepare.benchmarks import as_source, read_benchmarks
from finetune_trainer.prepare.checks import (
    Finding,
    check_division,
    tell_dropped,
    tell_size,
    tell_thoughtless,
)
from finetune_trainer.prepare.conversations import choose_format, fetch_template
from finetune_trainer.prepare.dividing import Division
from finetune_trainer.prepare.documents import make_decode, write_documents
from finetune_trainer.prepare.duplicates.comparing import compare_rows
from finetune_trainer.prepare.intake import take_in
from finetune_trainer.prepare.invalid_rows import InvalidRowFile
from finetune_trainer.prepare.labels import count_labels, tell_labels
from finetune_trainer.prepare.privacy.step import make_shield
from finetune_trainer.prepare.progress import RowProgress
from finetune_trainer.prepare.reading.control import find_control_tokens
from finetune_trainer.prepare.reading.examples import open_source, refuse_wrong_column
from finetune_trainer.prepare.reading.sources import SourceFile, fetch_source, locate
from finetune_trainer.prepare.refusals import (
    require_answers,
    require_preferences,
    require_prompts,
    require_sides,
    require_valid_rows,
)
from finetune_trainer.prepare.screening import Screening
from finetune_trainer.prepare.split import divide_compared, write_records
from finetune_trainer.prepare.spool import Spool
from finetune_trainer.prepare.steps import choose_steps
from finetune_trainer.prepare.summary import (
    Input,
    count_divided,
    count_rows,
    make_report,
    source_label,
    tell_encodings,
    tell_report,
    tokenizer_name,
)
from finetune_trainer.prepare.tokens import EncoderSettings, TokenStatistics, measure_tokens
from finetune_trainer.prepare.version import compute_version
from finetune_trainer.prepare.weighing import count_repeats, tell_weights
from finetune_trainer.prepare.workers import Workers, num_processes_granted
from finetune_trainer.storage import (
    MANIFEST_NAME,
    Manifest,
    OtherWriterWon,
    open_patiently,
    publish_folder,
)

if TYPE_CHECKING:
    from finetune_trainer.context import StageContext

CREATED_BY = "finetune-operator prepare"


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
    files = fetch_sources(context)
    benchmarks = fetch_benchmarks(context)
    _, model_revision = context.model_folder(include_weights=False)
    model = context.job.spec.model
    template = fetch_template(model, context.access(model.credentials_ref))
    digest = compute_version(
        context.job.spec,
        files,
        benchmarks=benchmarks,
        model_revision=model_revision,
        chat_template=template,
    )
    reused = context.output.exists(f"{dataset_prefix(digest)}/{MANIFEST_NAME}")
    if reused:
        folder, manifest, report = fetch_prepared(
            context.output, context.job, context.work_dir, digest
        )
        require_evidence(context, folder)
    else:
        report = build(context, files, digest, template, benchmarks=benchmarks)
        require_evidence(context, staging_of(context, digest))
        manifest, reused = _publish(context, digest)
        if reused:  # another job prepared the same data at the same time
            _, manifest, report = fetch_prepared(
                context.output, context.job, context.work_dir, digest
            )
    require_sides(report.rows)
    _write_pointer(context, report, manifest, model_revision)
    tell_report(context.emit.message, context.job, report, reused=reused)
    _fetch_weights(context)
    train = report.tokens[tokenizer_name(context.job)][Side.TRAIN]
    return PrepareResult(
        digest=digest,
        uri=context.uri_of(dataset_prefix(digest)),
        rows=report.rows,
        num_tokens=train.tokens,
        num_invalid_rows=report.invalid_rows.total,
        invalid_rows=limit_places(
            place_row(row.file, row.line, row.reason) for row in report.invalid_rows.first
        ),
        num_truncated_rows=train.truncated_rows,
        reused=reused,
    )


def _fetch_weights(context: StageContext) -> None:
    """Bring the whole base model to a cache that later stages share, so that no GPU waits for it.

    A cache of this pod or node alone is no use to them: they may run anywhere.
    """
    if not context.cache_is_shared:
        return
    start = time.monotonic()
    context.model_folder()
    seconds = time.monotonic() - start
    context.emit.message(f"the base model is in the shared cache after {seconds:.0f} s")


def require_evidence(context: StageContext, folder: Path) -> None:
    """Refuse a data set that the job's goal, objective or evaluation has no use for.

    Raises:
        DataError: Says what is missing, and the remedy.
    """
    require_answers(context.job.spec.goal, folder)
    require_preferences(context.job.spec.method.objective, folder)
    require_prompts(context.job.spec.evaluation, folder)


def fetch_sources(context: StageContext) -> list[list[SourceFile]]:
    """Fetch the files of all sources to the work folder."""
    return _fetch(context, context.job.spec.dataset.sources, "sources")


def fetch_benchmarks(context: StageContext) -> list[list[SourceFile]]:
    """Fetch the files of ``dataset.contamination.against`` to the work folder."""
    benchmarks = context.job.spec.dataset.benchmarks
    return _fetch(context, list(map(as_source, benchmarks)), "benchmarks")


def _fetch(
    context: StageContext, sources: Sequence[Source], folder_name: str
) -> list[list[SourceFile]]:
    fetched = []
    for index, source in enumerate(sources):
        location = locate(source.uri)
        access = context.access(source.credentials_ref)
        store = open_patiently(location.root, access, context.emit.message)
        folder = context.scratch(f"{folder_name}/{index}")
        files = fetch_source(source, store, location, folder)
        num_bytes = sum(file.num_bytes for file in files)
        context.emit.message(f"read {source.uri}: {len(files)} file(s), {num_bytes:,} bytes")
        tell_encodings(context.emit.message, files)
        fetched.append(files)
    return fetched


def build(
    context: StageContext,
    files: list[list[SourceFile]],
    digest: str,
    template: str | None,
    *,
    benchmarks: list[list[SourceFile]] | None = None,
) -> DatasetReport:
    """Do the work of the stage and leave the data set in the staging folder."""
    tokenizer = context.load_tokenizer()
    conversational = template is not None or own_template(tokenizer) is not None
    staging = staging_of(context, digest, fresh=True)
    with Workers(num_processes_granted()) as workers:
        read, division, findings, sides = divide_sources(
            context,
            files,
            find_control_tokens(tokenizer),
            staging,
            workers,
            conversational=conversational,
            benchmarks=benchmarks,
        )
        model_dir, _ = context.model_folder(include_weights=False)
        chat_format = choose_format(
            context.job.spec.model, template, tokenizer, model_dir, sides[Side.TRAIN]
        )
        encoder = make_encoder(context.job, tokenizer, chat_format)
        settings = EncoderSettings(
            job_json=context.job.to_json(), model_dir=model_dir, chat_format=chat_format
        )
        sides, tokens, totals, finding = _count_tokens(
            context, sides, encoder, settings, staging, workers
        )
        findings += [finding] if finding else []
        findings += tell_thoughtless(
            sum(side.num_thoughtless for side in tokens.values()),
            sum(side.num_rows for side in tokens.values()),
        )
    labels = count_labels(sides)
    findings += tell_labels(labels)
    report = make_report(
        context.job,
        digest,
        read,
        division,
        findings,
        tokens,
        totals,
        rows=count_rows(sides),
        remedies=chat_format.notes,
        labels=labels,
    )
    write_format(chat_format, staging)
    write_documents(staging, context.job.spec.dataset, report, make_decode(tokenizer))
    return report


def divide_sources(
    context: StageContext,
    files: list[list[SourceFile]],
    control_tokens: Collection[str],
    staging: Path,
    workers: Workers,
    *,
    conversational: bool,
    benchmarks: list[list[SourceFile]] | None = None,
) -> tuple[Input, Division, list[Finding], Mapping[Side, RowFile]]:
    """Read all rows, check them, and write the sides."""
    job, dataset = context.job, context.job.spec.dataset
    screening = Screening(choose_steps(job.spec))
    with (
        Spool(context.scratch("spool", fresh=True) / "rows.jsonl") as spool,
        InvalidRowFile(staging / INVALID_ROWS_NAME) as invalid_rows,
    ):
        rows, ends = [], []
        shield = make_shield(dataset.privacy)
        for index, source in enumerate(dataset.sources):
            with shield.guard():
                opened = open_source(
                    source,
                    files[index],
                    index=index,
                    label=source_label(job, index),
                    conversational=conversational,
                    control_tokens=control_tokens,
                    objective=job.spec.method.objective,
                )
            taken = take_in(
                opened,
                workers,
                screening,
                spool,
                shield=shield,
                on_error=invalid_rows.add,
                on_progress=RowProgress(
                    context.emit, f"reading and checking the rows of {_describe_size(files[index])}"
                ).tell,
            )
            refuse_wrong_column(taken, index=index)
            rows.append(taken)
            ends.append(len(spool))
        read = Input(files=files, rows=rows)
        invalid_rows.close()
        require_valid_rows(
            context.output, job, read.errors, num_valid=len(spool), all_rows=invalid_rows.path
        )
        findings = screening.summarise()
        _require_rows(job, spool, read)
        read_benchmarks(
            dataset.benchmarks,
            fetch_benchmarks(context) if benchmarks is None else benchmarks,
            spool,
            conversational=conversational,
            steps=screening.steps,
        )
        compared = compare_rows(
            spool, dataset, on_progress=lambda done, total: _tell_comparing(context, done, total)
        )
        write_records(staging, compared)
        division = divide_compared(compared, dataset.split)
        more = [*compared.findings, *check_division(division)]
        require_sides(count_divided(division))
        weights = [source.weight for source in dataset.sources]
        repeats = count_repeats(
            division, spool.keys(), weights=weights, ends=ends, seed=dataset.split.seed
        )
        more += [*tell_weights(division, repeats, weights), *tell_size(division.num_rows)]
        sides = spool.write_sides(
            staging, division.positions, division.sides, repeats, compared.keys.groups
        )
    return read, division, [*findings, *more], sides


def _count_tokens(
    context: StageContext,
    sides: Mapping[Side, RowFile],
    encoder: Encoder,
    settings: EncoderSettings,
    staging: Path,
    workers: Workers,
) -> tuple[
    Mapping[Side, RowFile],
    dict[Side, TokenStatistics],
    dict[Side, TokenTotals],
    Finding | None,
]:
    """Find tokens and labels, and leave out the rows that are too long where the job says so."""
    spec = context.job.spec
    dropped: dict[Side, list[int]] = {side: [] for side in sides}
    with TokenFiles(staging) as token_files:
        tokens = measure_tokens(
            sides,
            encoder,
            max_sequence_length=spec.hyperparameters.max_sequence_length,
            on_too_long=spec.dataset.on_too_long,
            keep=lambda side, one: token_files.add(side, one.input_ids, one.labels),
            drop=lambda row: dropped[row.side].append(row.position),
            on_progress=RowProgress(context.emit, "finding tokens and labels").tell,
            workers=workers,
            settings=settings,
        )
    left = {side: rows.leave_out(dropped[side]) for side, rows in sides.items()}
    require_sides(count_rows(left))
    return left, tokens, token_files.totals, tell_dropped(sum(map(len, dropped.values())))


def _require_rows(job: ResolvedJob, spool: Spool, read: Input) -> None:
    if len(spool):
        return
    raise DataError(
        "EmptyDataset",
        f"there are no usable rows in {', '.join(s.uri for s in job.spec.dataset.sources)} "
        f"({read.errors.total} invalid rows); check the files",
    )


def _publish(context: StageContext, digest: str) -> tuple[Manifest, bool]:
    """Publish the staged folder; the flag tells that another writer was first."""
    sources = context.job.spec.dataset.sources
    try:
        manifest = publish_folder(
            context.output,
            dataset_prefix(digest),
            staging_of(context, digest),
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


def _describe_size(files: Sequence[SourceFile]) -> str:
    return f"{len(files)} file(s), {sum(file.num_bytes for file in files):,} bytes"


def _tell_comparing(context: StageContext, done: int, total: int) -> None:
    context.emit.progress(step=done, total_steps=total, message="comparing near prompts")


def staging_of(context: StageContext, digest: str, *, fresh: bool = False) -> Path:
    """Return the folder that a data set is made in before it is published."""
    return context.scratch(f"staging/{digest[:16]}", fresh=fresh)
