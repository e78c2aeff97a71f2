"""Stage ``prepare``: read, check, divide, count and version the data, before any GPU is used.

The result is one folder, ``datasets/<digest>/``, named by its inputs. Equal inputs give equal bytes
and are prepared once.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from finetune_api.protocol.stage_results import (
    PrepareResult,
    QuestionCount,
    TakenOver,
    limit_places,
)
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.context import StageContext
from finetune_trainer.data.asking import most_asked
from finetune_trainer.data.held_out import read_held_out
from finetune_trainer.data.judge_key import read_judge_key
from finetune_trainer.data.keys import dataset_prefix, pointer_key
from finetune_trainer.data.looks import next_look, read_held_out_prompts
from finetune_trainer.data.prepared import REPORT_NAME, fetch_prepared
from finetune_trainer.data.report import DatasetPointer, DatasetReport, place_row
from finetune_trainer.data.rows import RowFile, Side
from finetune_trainer.errors import DataError, RetryableError
from finetune_trainer.prepare.building import build, staging_of
from finetune_trainer.prepare.checks.conversations import fetch_template
from finetune_trainer.prepare.fetching import (
    fetch_benchmarks,
    fetch_sources,
    removing_raw_copies,
)
from finetune_trainer.prepare.licence import require_licence
from finetune_trainer.prepare.refusals.metric_checks import require_metrics
from finetune_trainer.prepare.refusals.origins import require_unseen
from finetune_trainer.prepare.refusals.refusals import (
    require_preferences,
    require_prompts,
    require_splits,
    require_validation,
)
from finetune_trainer.prepare.refusals.served import require_adapter, require_context
from finetune_trainer.prepare.report.summary import report_sentences
from finetune_trainer.prepare.version import compute_version
from finetune_trainer.publish.earlier import find_anchor, find_complete_run, with_anchor
from finetune_trainer.publish.versions import newest_version
from finetune_trainer.run import BaseModel, RunStorage, Workspace
from finetune_trainer.storage import (
    MANIFEST_NAME,
    Manifest,
    OtherWriterWon,
    publish_folder,
    read_json,
)
from finetune_trainer.verdict.certainty import raise_certainty, withhold_unshown
from finetune_trainer.verdict.decidable import require_decidable_goal, require_gates
from finetune_trainer.verdict.sample_size import count_questions

CREATED_BY = "finetune-operator prepare"


def prepare(context: StageContext) -> PrepareResult:
    """Prepare the job's data set, or find it prepared, and point the run at it.

    Returns:
        What was found; ``reused`` says that the data set was there already.

    Raises:
        UserError: The data set cannot be found or its settings do not fit it.
        DataError: The data is not good enough to train on; the message says what to change.
        StorageError: Storage failed.
    """
    anchor = find_anchor(context.storage)
    if anchor is not None:
        context = replace(context, job=with_anchor(context.job, anchor))
        context.emit.message(f"the rows that {anchor.job} sealed are held out again")
    with removing_raw_copies(context.workspace):
        return _prepare(context).model_copy(update={"anchor": anchor})


def _prepare(context: StageContext) -> PrepareResult:
    job, storage, workspace, model = context.job, context.storage, context.workspace, context.model
    named, work_dir = job.spec.model, workspace.folder
    files = fetch_sources(storage, workspace)
    benchmarks = fetch_benchmarks(storage, workspace)
    model_dir, revision = model.fetch(include_weights=False)
    require_licence(named, model_dir, storage.say)
    require_adapter(job, model_dir)
    template = fetch_template(named, storage.access(named.credentials_ref))
    digest = compute_version(
        job.spec, files, benchmarks=benchmarks, model_revision=revision, chat_template=template
    )
    reused = storage.output.exists(f"{dataset_prefix(digest)}/{MANIFEST_NAME}")
    if reused and (run := find_complete_run(storage, digest=digest, revision=revision)):
        return _take_over(context, digest, run)
    if reused:
        folder, manifest, report = fetch_prepared(storage.output, job, work_dir, digest)
        questions = _require_askable(model, folder)
    else:
        emit = context.emit
        report = build(job, files, digest, template, model, workspace, emit, benchmarks=benchmarks)
        folder = staging_of(workspace, digest)
        questions = _require_askable(model, folder)
        _refuse_deleted(storage, folder)
        manifest, reused = _publish(storage, workspace, digest)
        if reused:  # another job prepared the same data at the same time
            _, manifest, report = fetch_prepared(storage.output, job, work_dir, digest)
    _refuse_deleted(storage, folder)  # during the upload, or of an earlier job's data set
    require_splits(report.rows)
    origins = require_unseen(storage, workspace, folder, digest)
    _write_pointer(storage, report, manifest, revision, questions, origins)
    report_sentences(storage.say, job, report, reused=reused, questions=questions)
    if context.cache_is_shared:
        _fetch_weights(model)
    return _result_of(storage, report, manifest, questions, reused=reused)


def _take_over(context: StageContext, digest: str, run: TakenOver) -> PrepareResult:
    """Point the job at a complete run of the same content, whose data set passed all checks."""
    job, storage = context.job, context.storage
    known = read_json(storage.output, pointer_key(job.model_copy(update={"uid": run.uid})))
    pointer = DatasetPointer.model_validate(known).model_copy(update={"taken_over": run.uid})
    folder, manifest, report = fetch_prepared(storage.output, job, context.workspace.folder, digest)
    if not run.is_published:
        _refuse_deleted(storage, folder)
    _put_pointer(storage, pointer)
    storage.say(f"run {run.uid} of the same content is complete: nothing is trained")
    told = _result_of(storage, report, manifest, pointer.questions, reused=True)
    return told.model_copy(update={"taken_over": run})


def _refuse_deleted(storage: RunStorage, folder: Path) -> None:
    """Remove the local copy of a data set with an answer that was deleted since it was fetched."""
    if number := storage.count_deleted(folder):
        shutil.rmtree(folder)
        raise RetryableError(
            "AnswersDeleted",
            f"{number} rows come from captured answers that were deleted while the data set was "
            "being made. Prepare it again",
        )


def _result_of(
    storage: RunStorage,
    report: DatasetReport,
    manifest: Manifest,
    questions: QuestionCount | None,
    *,
    reused: bool,
) -> PrepareResult:
    train = report.tokens_of(storage.job.spec.model)[Side.TRAIN]
    return PrepareResult(
        digest=report.digest,
        uri=storage.uri_of(dataset_prefix(report.digest)),
        test_sha256=next(
            (file.sha256 for file in manifest.files if file.path == f"{Side.TEST}.jsonl"), ""
        ),
        rows=report.rows,
        num_tokens=train.tokens,
        num_invalid_rows=report.invalid_rows.total,
        invalid_rows=limit_places(
            place_row(row.file, row.line, row.reason) for row in report.invalid_rows.first
        ),
        num_truncated_rows=train.truncated_rows,
        questions=questions,
        reused=reused,
    )


def _require_askable(model: BaseModel, folder: Path) -> QuestionCount | None:
    """Refuse a data set as :func:`require_evidence` does, and unanswerable questions."""
    storage = model.storage
    spec = _at_next_look(storage, folder)
    questions = require_evidence(storage, folder, spec, has_published=has_version(storage))
    chosen = None if questions is None else questions.number
    most = most_asked(storage.job.spec.evaluation, chosen)
    require_context(model, folder, num_questions=most)
    return questions


def _fetch_weights(model: BaseModel) -> None:
    """Fetch the whole base model to a shared cache, so that no GPU waits for it."""
    start = time.monotonic()
    model.fetch()
    seconds = time.monotonic() - start
    model.storage.say(f"the base model is in the shared cache after {seconds:.0f} s")


def has_version(storage: RunStorage) -> bool:
    """Return whether ``overPublished`` has a published version of another run to compare with.

    It is True without a look where no number of questions depends on it.
    """
    evaluation = storage.job.spec.evaluation
    is_asked = any(gate.over_published is not None for gate in evaluation.gates)
    if evaluation.max_samples != "auto" or not is_asked:
        return True
    return newest_version(storage) is not None


def require_evidence(
    storage: RunStorage, folder: Path, spec: FineTuneJobSpec, *, has_published: bool = True
) -> QuestionCount | None:
    """Refuse a data set that cannot serve the job's goal, objective or evaluation.

    Args:
        storage: The run's.
        folder: The data set.
        spec: The job's, with the certainty that its next look needs.
        has_published: Whether ``overPublished`` has a version to compare with.

    Returns:
        Number of held-out questions, where the job leaves it to this stage.

    Raises:
        UserError: The references cannot be used, or a judge's key is missing.
        DataError: Says what is missing, and the remedy.
    """
    require_validation(spec, folder)
    require_metrics(spec, folder, storage.access())
    judge = spec.evaluation.judge
    if judge is not None:
        read_judge_key(judge, storage.access(judge.credentials_ref), os.environ)
    require_preferences(spec.method.objective, folder)
    side = read_held_out(folder, spec.evaluation.gates, seed=spec.dataset.split.seed)
    questions = count_questions(spec, side, has_published=has_published)
    most = most_asked(spec.evaluation, None if questions is None else questions.number)
    require_prompts(spec, side, num_questions=most)
    try:
        require_decidable_goal(spec, side, num_questions=most)
        require_gates(spec, side, num_questions=most)
    except DataError as error:
        raise DataError(
            error.reason, f"{error.message}{_word_raised(storage.job.spec, spec)}"
        ) from error
    return questions


def _word_raised(asked: FineTuneJobSpec, raised: FineTuneJobSpec) -> str:
    """Say that a look has to be surer than was asked; empty where it has not."""
    if asked.goal is None or raised.goal is None or asked.goal.certainty == raised.goal.certainty:
        return ""
    return (
        f". evaluation.looks: Correct has raised goal.certainty from {asked.goal.certainty} for "
        "this evaluation"
    )


def _at_next_look(storage: RunStorage, folder: Path) -> FineTuneJobSpec:
    """Return the spec with the certainty of the next look, where looks are corrected.

    Raises:
        DataError: ``GoalUndecidable``: so many looks were taken that nothing could show the goal.
    """
    job = storage.job
    if job.spec.evaluation.looks != "Correct":
        return job.spec
    report = DatasetReport.model_validate_json((folder / REPORT_NAME).read_bytes())
    test = RowFile(path=folder / f"{Side.TEST}.jsonl", num_rows=report.rows.test)
    held_out = read_held_out_prompts(test, sealed=report.anchor_digest)
    number = next_look(storage.output, held_out, uid=job.uid)
    spec = raise_certainty(job.spec, number)
    can_meet, words = withhold_unshown(job.model_copy(update={"spec": spec}), True, "")
    if not can_meet:
        raise DataError("GoalUndecidable", words.removeprefix("MISSED ").removesuffix("; "))
    return spec


def _publish(storage: RunStorage, workspace: Workspace, digest: str) -> tuple[Manifest, bool]:
    """Publish the staged folder; the flag says that another writer was first."""
    sources = storage.job.spec.dataset.sources
    try:
        manifest = publish_folder(
            storage.output,
            dataset_prefix(digest),
            staging_of(workspace, digest),
            created_by=CREATED_BY,
            inputs={f"sources[{index}]": source.uri for index, source in enumerate(sources)},
        )
    except OtherWriterWon:
        return Manifest(files=()), True
    return manifest, False


def _write_pointer(
    storage: RunStorage,
    report: DatasetReport,
    manifest: Manifest,
    model_revision: str,
    questions: QuestionCount | None,
    origins: str,
) -> None:
    prefix = dataset_prefix(report.digest)
    pointer = DatasetPointer(
        digest=report.digest,
        uri=storage.uri_of(prefix),
        prefix=prefix,
        manifest_digest=manifest.digest,
        rows=report.rows,
        sources=[source.uri for source in storage.job.spec.dataset.sources],
        model_revision=model_revision,
        questions=questions,
        origins=origins,
    )
    _put_pointer(storage, pointer)


def _put_pointer(storage: RunStorage, pointer: DatasetPointer) -> None:
    body = pointer.model_dump_json(by_alias=True, indent=1) + "\n"
    storage.output.write_bytes(pointer_key(storage.job), body.encode())
