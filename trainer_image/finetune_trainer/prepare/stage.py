"""Stage ``prepare``: read, check, divide, count and version the data, before any GPU is used.

The result is one folder, ``datasets/<digest>/``, named by its inputs. Equal inputs give equal bytes
and are prepared once.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.protocol.stage_results import PrepareResult, QuestionCount, limit_places
from finetune_trainer.data.asking import most_asked
from finetune_trainer.data.held_out import read_held_out
from finetune_trainer.data.judge_key import read_judge_key
from finetune_trainer.data.keys import dataset_prefix, pointer_key
from finetune_trainer.data.prepared import fetch_prepared
from finetune_trainer.data.report import (
    DatasetPointer,
    DatasetReport,
    place_row,
)
from finetune_trainer.data.rows import Side
from finetune_trainer.prepare.building import build, staging_of
from finetune_trainer.prepare.checks.conversations import fetch_template
from finetune_trainer.prepare.fetching import (
    fetch_benchmarks,
    fetch_sources,
    removing_raw_copies,
)
from finetune_trainer.prepare.licence import require_licence
from finetune_trainer.prepare.refusals.metric_checks import require_metrics
from finetune_trainer.prepare.refusals.refusals import (
    require_preferences,
    require_prompts,
    require_splits,
    require_validation,
)
from finetune_trainer.prepare.refusals.served import require_context, require_served
from finetune_trainer.prepare.report.summary import report_sentences
from finetune_trainer.prepare.version import compute_version
from finetune_trainer.publish.versions import newest_version
from finetune_trainer.storage import (
    MANIFEST_NAME,
    Manifest,
    OtherWriterWon,
    publish_folder,
)
from finetune_trainer.verdict.certainty import at_first_look
from finetune_trainer.verdict.decidable import require_decidable_goal, require_gates
from finetune_trainer.verdict.sample_size import count_questions

if TYPE_CHECKING:
    from finetune_trainer.context import StageContext

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
    with removing_raw_copies(context):
        return _prepare(context)


def _prepare(context: StageContext) -> PrepareResult:
    files = fetch_sources(context)
    benchmarks = fetch_benchmarks(context)
    model_dir, model_revision = context.model_folder(include_weights=False)
    require_licence(context, model_dir)
    require_served(context.job, model_dir)
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
        questions = _require_askable(context, folder)
    else:
        report = build(context, files, digest, template, benchmarks=benchmarks)
        questions = _require_askable(context, staging_of(context, digest))
        manifest, reused = _publish(context, digest)
        if reused:  # another job prepared the same data at the same time
            _, manifest, report = fetch_prepared(
                context.output, context.job, context.work_dir, digest
            )
    require_splits(report.rows)
    _write_pointer(context, report, manifest, model_revision, questions)
    report_sentences(context.emit.message, context.job, report, reused=reused, questions=questions)
    _fetch_weights(context)
    train = report.tokens_of(context.job.spec.model)[Side.TRAIN]
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
        questions=questions,
        reused=reused,
    )


def _require_askable(context: StageContext, folder: Path) -> QuestionCount | None:
    """Refuse a data set as :func:`require_evidence` does, and unanswerable questions."""
    questions = require_evidence(context, folder, has_published=has_version(context))
    chosen = None if questions is None else questions.number
    most = most_asked(context.job.spec.evaluation, chosen)
    require_context(context, folder, num_questions=most)
    return questions


def _fetch_weights(context: StageContext) -> None:
    """Fetch the whole base model to a shared cache, so that no GPU waits for it."""
    if not context.cache_is_shared:
        return
    start = time.monotonic()
    context.model_folder()
    seconds = time.monotonic() - start
    context.emit.message(f"the base model is in the shared cache after {seconds:.0f} s")


def has_version(context: StageContext) -> bool:
    """Return whether ``overPublished`` has a published version of another run to compare with.

    It is True without a look where no number of questions depends on it.
    """
    evaluation = context.job.spec.evaluation
    is_asked = any(gate.over_published is not None for gate in evaluation.gates)
    if evaluation.max_samples != "auto" or not is_asked:
        return True
    return newest_version(context.storage) is not None


def require_evidence(
    context: StageContext, folder: Path, *, has_published: bool = True
) -> QuestionCount | None:
    """Refuse a data set that cannot serve the job's goal, objective or evaluation.

    Returns:
        Number of held-out questions, where the job leaves it to this stage.

    Raises:
        UserError: The references cannot be used, or a judge's key is missing.
        DataError: Says what is missing, and the remedy.
    """
    spec = at_first_look(context.job.spec)
    require_validation(spec, folder)
    require_metrics(spec, folder, context.access())
    judge = spec.evaluation.judge
    if judge is not None:
        read_judge_key(judge, context.access(judge.credentials_ref), os.environ)
    require_preferences(spec.method.objective, folder)
    side = read_held_out(folder, spec.evaluation.gates, seed=spec.dataset.split.seed)
    questions = count_questions(spec, side, has_published=has_published)
    most = most_asked(spec.evaluation, None if questions is None else questions.number)
    require_prompts(spec, side, num_questions=most)
    require_decidable_goal(spec, side, num_questions=most)
    require_gates(spec, side, num_questions=most)
    return questions


def _publish(context: StageContext, digest: str) -> tuple[Manifest, bool]:
    """Publish the staged folder; the flag says that another writer was first."""
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
    context: StageContext,
    report: DatasetReport,
    manifest: Manifest,
    model_revision: str,
    questions: QuestionCount | None,
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
        questions=questions,
    )
    body = pointer.model_dump_json(by_alias=True, indent=1) + "\n"
    context.output.write_bytes(pointer_key(context.job), body.encode())
