"""Make a data set in the staging folder: take rows in, compare, divide, count tokens, report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from finetune_api.meta import decimal_of
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.spec.dataset import Dataset
from finetune_trainer.data.prepared import INVALID_ROWS_NAME
from finetune_trainer.data.report import DatasetReport
from finetune_trainer.data.responses import write_responses
from finetune_trainer.data.rows import RowErrors, RowFile, Side, join_errors
from finetune_trainer.data.token_files import TokenFiles, TokenTotals
from finetune_trainer.errors import DataError
from finetune_trainer.model.chat_format import own_template, write_format
from finetune_trainer.model.encoding import ChatTokenizer, make_encoder
from finetune_trainer.prepare.benchmarks import read_benchmarks
from finetune_trainer.prepare.checks.checks import (
    Finding,
    check_division,
    check_dropped_rows,
    check_held_out_turns,
    check_reasoning,
    check_size,
    describe_people,
    describe_responses,
)
from finetune_trainer.prepare.checks.conversations import choose_format
from finetune_trainer.prepare.checks.invalid_rows import InvalidRowFile
from finetune_trainer.prepare.checks.labels import check_labels, count_labels
from finetune_trainer.prepare.checks.long_rows import LongRow
from finetune_trainer.prepare.checks.screening import Screening
from finetune_trainer.prepare.checks.weighing import check_weights, count_repeats
from finetune_trainer.prepare.duplicates.comparing import Compared, compare_rows
from finetune_trainer.prepare.duplicates.turns import find_held_out_turns
from finetune_trainer.prepare.fetching import fetch_benchmarks, raw_folder
from finetune_trainer.prepare.intake import take_in
from finetune_trainer.prepare.privacy.sides import count_by_split
from finetune_trainer.prepare.privacy.step import make_shield
from finetune_trainer.prepare.progress import RowProgress
from finetune_trainer.prepare.reading.columns.unread import check_identifiers, check_unread_fields
from finetune_trainer.prepare.reading.control import find_control_tokens
from finetune_trainer.prepare.reading.examples import SourceRows, open_source, refuse_wrong_column
from finetune_trainer.prepare.reading.sealed import add_sealed, fetch_sealed, require_all_sealed
from finetune_trainer.prepare.reading.sources import SourceFile
from finetune_trainer.prepare.reading.traffic import settle_traffic
from finetune_trainer.prepare.refusals.refusals import require_splits, require_valid_rows
from finetune_trainer.prepare.report.documents import make_decode, write_documents
from finetune_trainer.prepare.report.summary import (
    Input,
    check_empty_files,
    count_divided,
    count_rows,
    make_report,
    source_label,
)
from finetune_trainer.prepare.rows.spool import Spool
from finetune_trainer.prepare.split import divide_compared, write_records
from finetune_trainer.prepare.splits.dividing import Division
from finetune_trainer.prepare.steps import choose_steps
from finetune_trainer.prepare.tokens import ChatTokenizerSettings, TokenStatistics, measure_tokens
from finetune_trainer.prepare.workers import Workers, num_processes_granted
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.run import BaseModel, RunStorage, Workspace


def build(
    job: ResolvedJob,
    files: list[list[SourceFile]],
    digest: str,
    template: str | None,
    model: BaseModel,
    workspace: Workspace,
    emit: EventEmitter,
    *,
    benchmarks: list[list[SourceFile]] | None = None,
) -> DatasetReport:
    """Do the work of the stage and leave the data set in the staging folder.

    Benchmarks are fetched if they are None.
    """
    tokenizer = model.load_tokenizer()
    sealed = fetch_sealed(model.storage, workspace)
    conversational = template is not None or own_template(tokenizer) is not None
    staging = staging_of(workspace, digest, fresh=True)
    with Workers(num_processes_granted()) as workers:
        read, division, findings, sides = divide_sources(
            job,
            files,
            find_control_tokens(tokenizer),
            staging,
            workers,
            storage=model.storage,
            workspace=workspace,
            emit=emit,
            conversational=conversational,
            benchmarks=benchmarks,
            sealed=None if sealed is None else sealed.rows,
        )
        model_dir, _ = model.fetch(include_weights=False)
        chat_format = choose_format(
            job.spec.model, template, tokenizer, model_dir, sides[Side.TRAIN]
        )
        encoder = make_encoder(job, tokenizer, chat_format)
        settings = ChatTokenizerSettings(
            job_json=job.to_json(), model_dir=model_dir, chat_format=chat_format
        )
        sides, tokens, totals, more = _count_tokens(
            job, sides, encoder, settings, staging, workers, emit
        )
        findings += more
    if any(source.is_traffic for source in job.spec.dataset.sources):
        findings.append(describe_responses(*write_responses(staging, sides)))
        known = [file.people for some in files for file in some if file.people is not None]
        findings += [describe_people(each.message, len(each.left_out)) for each in known]
    if sealed is not None:
        require_all_sealed(sides[Side.TEST], sealed.rows)
    shield = make_shield(job.spec.dataset.privacy)
    labels = count_labels(sides, show=shield.shield_text)
    findings += check_labels(labels)
    report = make_report(
        job,
        digest,
        read,
        division,
        findings,
        tokens,
        totals,
        rows=count_rows(sides),
        remedies=chat_format.notes,
        labels=labels.counts,
    )
    if sealed is not None:
        report = report.model_copy(update={"anchor_digest": sealed.digest})
    write_format(chat_format, staging)
    write_documents(staging, job.spec.dataset, report, make_decode(tokenizer))
    return report


def divide_sources(
    job: ResolvedJob,
    files: list[list[SourceFile]],
    control_tokens: Collection[str],
    staging: Path,
    workers: Workers,
    *,
    storage: RunStorage,
    workspace: Workspace,
    emit: EventEmitter,
    conversational: bool,
    benchmarks: list[list[SourceFile]] | None = None,
    sealed: RowFile | None = None,
) -> tuple[Input, Division, list[Finding], Mapping[Side, RowFile]]:
    """Read all rows, check them, and write the sides."""
    dataset = job.spec.dataset
    screening = Screening(choose_steps(job.spec))
    with (
        Spool(raw_folder(workspace, "spool", fresh=True) / "rows.jsonl") as spool,
        InvalidRowFile(staging / INVALID_ROWS_NAME) as invalid_rows,
    ):
        rows, ends = _take_in_all(
            job,
            files,
            workers,
            screening,
            spool,
            invalid_rows,
            emit,
            conversational=conversational,
            control_tokens=control_tokens,
        )
        read = Input(files=files, rows=rows)
        invalid_rows.close()
        require_valid_rows(
            storage.output, job, _errors_of_files(job, rows),
            num_valid=len(spool), all_rows=invalid_rows.path,
        )  # fmt: skip
        columns, empty = _check_columns(job, rows), check_empty_files(job, read)
        findings = [*screening.summarise(), *columns, *empty]
        _require_rows(job, spool, read)
        sealed_from = None if sealed is None else len(spool)
        if sealed is not None:
            add_sealed(sealed, spool, job.spec.method.objective, conversational=conversational)
        with make_shield(dataset.privacy).guard():
            read_benchmarks(
                dataset.benchmarks,
                fetch_benchmarks(storage, workspace) if benchmarks is None else benchmarks,
                spool,
                conversational=conversational,
                steps=screening.steps,
            )
        compared = compare_rows(
            spool,
            dataset,
            workers,
            sealed_from=sealed_from,
            on_progress=lambda done, total: emit.progress(
                step=done, total_steps=total, message="comparing near prompts", unit="pairs"
            ),
            show=make_shield(dataset.privacy).shield_text,
        )
        write_records(staging, compared)
        division, more, sides = _write_sides(spool, compared, dataset, ends, staging, sealed_from)
        findings = count_by_split(findings, division, compared.marks.personal)
    return read, division, [*findings, *more], sides


def _take_in_all(
    job: ResolvedJob,
    files: list[list[SourceFile]],
    workers: Workers,
    screening: Screening,
    spool: Spool,
    invalid_rows: InvalidRowFile,
    emit: EventEmitter,
    *,
    conversational: bool,
    control_tokens: Collection[str],
) -> tuple[list[SourceRows], list[int]]:
    """Read the rows of all sources; return each source's rows and its end in the spool."""
    rows, ends = [], []
    shield = make_shield(job.spec.dataset.privacy)
    for index, source in enumerate(job.spec.dataset.sources):
        with shield.guard():
            opened = open_source(
                settle_traffic(source),
                files[index],
                index=index,
                label=source_label(job, index),
                conversational=conversational,
                control_tokens=control_tokens,
                objective=job.spec.method.objective,
            )
        size = _describe_size(files[index])
        taken = take_in(
            opened,
            workers,
            screening,
            spool,
            shield=shield,
            on_error=invalid_rows.add,
            on_progress=RowProgress(emit, f"reading and checking the rows of {size}").tell,
        )
        refuse_wrong_column(taken, index=index)
        rows.append(taken)
        ends.append(len(spool))
    return rows, ends


def _errors_of_files(job: ResolvedJob, rows: Sequence[SourceRows]) -> RowErrors:
    """Return the errors that count against ``dataset.maxInvalidRows``.

    Unusable rows of captured answers are only left out: no user of an endpoint may stop a job.
    """
    sources = job.spec.dataset.sources
    return join_errors(
        one.errors for source, one in zip(sources, rows, strict=True) if not source.is_traffic
    )


def _write_sides(
    spool: Spool,
    compared: Compared,
    dataset: Dataset,
    ends: list[int],
    staging: Path,
    sealed_from: int | None,
) -> tuple[Division, list[Finding], Mapping[Side, RowFile]]:
    """Divide the rows, weigh their sources, and write each side."""
    division = divide_compared(compared, dataset.split, is_anchored=dataset.anchor is not None)
    findings = [*compared.findings, *check_division(division)]
    require_splits(count_divided(division))
    weights = [source.weight for source in dataset.sources]
    repeats = count_repeats(
        division, spool.keys(), weights=weights, ends=ends, seed=dataset.split.seed
    )
    findings += [*check_weights(division, repeats, weights), *check_size(division.num_rows)]
    silenced = find_held_out_turns(
        spool,
        division.positions,
        division.sides,
        threshold=float(decimal_of(dataset.duplicates.threshold)),
        sealed_from=sealed_from,
    )
    findings += check_held_out_turns(silenced)
    sides = spool.write_sides(
        staging, division.positions, division.sides, repeats, compared.keys.groups, silenced
    )
    return division, findings, sides


def _count_tokens(
    job: ResolvedJob,
    sides: Mapping[Side, RowFile],
    encoder: ChatTokenizer,
    settings: ChatTokenizerSettings,
    staging: Path,
    workers: Workers,
    emit: EventEmitter,
) -> tuple[
    Mapping[Side, RowFile], dict[Side, TokenStatistics], dict[Side, TokenTotals], list[Finding]
]:
    """Find tokens and labels, and leave out the rows that are too long where the job says so."""
    dropped: list[LongRow] = []
    with TokenFiles(staging) as token_files:
        tokens = measure_tokens(
            sides,
            encoder,
            max_sequence_length=job.spec.hyperparameters.max_sequence_length,
            on_too_long=job.spec.dataset.on_too_long,
            keep=token_files.add,
            drop=dropped.append,
            on_progress=RowProgress(emit, "finding tokens and labels").tell,
            workers=workers,
            settings=settings,
        )
    left = {
        side: rows.leave_out([row.position for row in dropped if row.side is side])
        for side, rows in sides.items()
    }
    require_splits(count_rows(left))
    findings = check_dropped_rows(
        Counter(row.reason for row in dropped), job.spec.dataset.on_too_long
    )
    thoughts = check_reasoning(
        sum(side.num_thoughtless for side in tokens.values()),
        sum(side.num_rows for side in tokens.values()),
    )
    return left, tokens, token_files.totals, [*findings, *thoughts]


def _check_columns(job: ResolvedJob, rows: Sequence[SourceRows]) -> list[Finding]:
    """Report unread fields and fields that blind the search for duplicates.

    Without a header the field names are the first row.
    """
    shield = make_shield(job.spec.dataset.privacy)
    num_unread: Counter[str] = Counter()
    findings: list[Finding] = []
    for index, source in enumerate(rows):
        for name, number in source.num_unread.items():
            num_unread[shield.shield_text(name)] += number
        names = [shield.shield_text(name) for name in source.identifiers]
        where = f"dataset.sources[{index}]"
        findings += check_identifiers(names, source.num_rows, where=where)
    return [*check_unread_fields(num_unread, sum(source.num_rows for source in rows)), *findings]


def _require_rows(job: ResolvedJob, spool: Spool, read: Input) -> None:
    if len(spool):
        return
    raise DataError(
        "EmptyDataset",
        f"there are no usable rows in {', '.join(s.uri for s in job.spec.dataset.sources)} "
        f"({read.errors.total} invalid rows); check the files",
    )


def _describe_size(files: Sequence[SourceFile]) -> str:
    return f"{len(files)} file(s), {sum(file.num_bytes for file in files):,} bytes"


def staging_of(workspace: Workspace, digest: str, *, fresh: bool = False) -> Path:
    """Return the folder that a data set is made in before it is published."""
    return workspace.scratch(f"staging/{digest[:16]}", fresh=fresh)
