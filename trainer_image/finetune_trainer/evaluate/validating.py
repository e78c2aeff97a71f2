"""Scores the tuned model's answers to validation rows, at the end of stage ``train``.

Jobs are chosen by it before any of them is evaluated, so the held-out side stays unseen. The model
is asked as in an evaluation, by the same workers on the same GPUs. The base is not: a choice
compares tuned models with each other. What comes of it lies in ``validation/`` below the run, so
that an attempt that is repeated reads it there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.protocol.stage_results import StepSelection, TrainResult, ValidationScore
from finetune_api.v1alpha1.evaluation.scoring import (
    LIKELIHOOD_METRICS,
    READ_METRICS,
    ValidationScoring,
)
from finetune_trainer.data.prepared import read_prepared
from finetune_trainer.data.rows import Side
from finetune_trainer.errors import DataError, OutOfMemory, UserError
from finetune_trainer.evaluate.asking import ask_models
from finetune_trainer.evaluate.inference.keeping import drop_answers
from finetune_trainer.evaluate.inputs import keep_below
from finetune_trainer.evaluate.metrics.answers import Answers, Measured
from finetune_trainer.evaluate.question_set import QuestionSet
from finetune_trainer.evaluate.questions import Question, gather_questions, name_group, with_prompt
from finetune_trainer.evaluate.scores.measuring import score_alone
from finetune_trainer.evaluate.scores.unended import describe_unended
from finetune_trainer.evaluate.settings import read_settings, try_settings
from finetune_trainer.evaluate.sources.source import Services
from finetune_trainer.evaluate.tokenized import encode_questions
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.context import context_of
from finetune_trainer.model.encoding import ChatTokenizer, make_encoder
from finetune_trainer.model.load import read_config
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.run import Workspace
from finetune_trainer.storage import fetch_folder, find_manifest, publish_folder
from finetune_trainer.verdict.figures import figure_text, high_text, low_text

FOLDER = "validation"
"""Below the run: the score, and every row's answer with what it scores."""
SCORE_NAME = "score.json"
SAMPLES_NAME = "samples.jsonl"
MAX_MESSAGE = 300


def score_validation(
    services: Services, trained: TrainResult, *, approved: str | None
) -> TrainResult:
    """Return the result of training with the score that was asked for.

    What running again cannot help (a metric of the user's own that fails, rows that do not fit, a
    lack of memory) leaves the run trained and without a score: its weights may be good.

    Args:
        services: The run's; the adapter is in its folder.
        trained: The result of training.
        approved: Digest of the only data set that may be read; None for whichever is the run's.

    Raises:
        TrainerError: Storage failed, or the workers; the next attempt goes on from the answers that
            are kept.
        Stopped: This process was asked to stop.
    """
    scoring = services.storage.job.spec.evaluation.validation
    if scoring is None:
        return trained
    score = _read_stored(services, scoring)
    if score is None:
        try:
            score = _score(services, scoring, step=trained.step, approved=approved)
        except (UserError, DataError, OutOfMemory) as error:
            message = error.message
            if len(message) > MAX_MESSAGE:
                message = f"{message[: MAX_MESSAGE - 3]}..."
            score = ValidationScore(metric=scoring.metric, reason=error.reason, message=message)
    services.emit.message(_tell(score))
    selection = trained.selection or StepSelection(
        step=trained.step, last_step=trained.step, planned_steps=trained.step
    )
    return trained.model_copy(update={"selection": selection.model_copy(update={"score": score})})


def _read_stored(services: Services, scoring: ValidationScoring) -> ValidationScore | None:
    """Return what an attempt before has scored and stored; None where it did not come to it."""
    key = f"{services.storage.job.run_prefix}/{FOLDER}"
    if find_manifest(services.storage.output, key) is None:
        return None
    folder = services.workspace.scratch(FOLDER, fresh=True)
    fetch_folder(services.storage.output, key, folder, only={SCORE_NAME})
    score = ValidationScore.model_validate_json((folder / SCORE_NAME).read_bytes())
    return score if score.metric == scoring.metric else None


def _score(
    services: Services, scoring: ValidationScoring, *, step: int, approved: str | None
) -> ValidationScore:
    """Ask the tuned model, score what it says and store both."""
    storage, job = services.storage, services.storage.job
    prepared = read_prepared(
        storage.output, job, services.workspace.folder, sides=(Side.VALIDATION,), approved=approved
    )
    encoder = make_encoder(job, services.model.load_tokenizer(), read_format(prepared.folder))
    settings = read_settings(job.spec.evaluation, storage.access())
    questions = _gather(prepared.validation, scoring, encoder, seed=job.spec.dataset.split.seed)
    try_settings(settings, questions)
    said = _ask(services, scoring, questions, encoder, dataset=prepared.digest, step=step)
    interval, measured = score_alone(job, questions, said, scoring.metric, settings)
    score = ValidationScore(
        metric=scoring.metric,
        value=figure_text(interval.value),
        low=low_text(interval.low),
        high=high_text(interval.high),
        num_samples=len(measured.rows),
    )
    samples = _samples(scoring.metric, questions, said, measured)
    _store(services, score, samples, prepared.digest)
    return score


def _gather(
    rows: list[dict[str, Any]], scoring: ValidationScoring, encoder: ChatTokenizer, *, seed: int
) -> list[Question]:
    """Return the validation rows as questions.

    Raises:
        DataError: There is none that the metric can score.
    """
    questions = gather_questions(
        rows, max_questions=scoring.max_samples, seed=seed, read_answer=encoder.read_answer
    )
    if not questions:
        raise DataError(
            "NoValidationRows",
            "there is no validation row to answer; add rows to a source with side: Validation or "
            "side: Split",
        )
    if scoring.metric not in LIKELIHOOD_METRICS and not with_prompt(questions):
        raise DataError(
            "MetricUnsuitable",
            f"evaluation.validation.metric {scoring.metric} compares answers, and no validation "
            "row has one; use loss, perplexity or bitsPerByte",
        )
    return questions


def _ask(
    services: Services,
    scoring: ValidationScoring,
    questions: list[Question],
    encoder: ChatTokenizer,
    *,
    dataset: str,
    step: int,
) -> Answers:
    """Put the questions to the tuned model on all that this pod has."""
    storage, job = services.storage, services.storage.job
    adapter_dir = _adapter_folder(services.workspace)
    manifest = fetch_folder(storage.output, f"{job.run_prefix}/adapter", adapter_dir)
    base_dir, revision = services.model.fetch()
    encoded = encode_questions(
        encoder,
        questions,
        job.spec.evaluation.max_new_tokens,
        # No server answers here, whatever the engine of the evaluation.
        context=context_of(read_config(base_dir)),
    )
    if scoring.metric in READ_METRICS:
        encoded = replace(encoded, prompts=[])
    elif encoded.cut_words:
        services.emit.message(encoded.cut_words)
    control_dir = services.workspace.scratch("asking", fresh=True)
    keeping = keep_below(
        storage, job.run_prefix, model=revision, adapter=manifest.digest, dataset=dataset
    )
    with storage.keeping_logs(control_dir):
        said = ask_models(
            job,
            QuestionSet(questions=questions, encoded=encoded, rows="validation", has_base=False),
            encoder,
            base_dir=base_dir,
            tuned_dir=adapter_dir,
            record=json.loads((adapter_dir / "run.json").read_text()),
            control_dir=control_dir,
            emit=services.emit,
            keeping=keeping,
            tell=_ProgressEmitter(services.emit, step),
        )
    if unended := describe_unended(said, dict.fromkeys(said, encoded.answer_tokens)):
        services.emit.message(unended)
    return said["tuned"]


def _adapter_folder(workspace: Workspace) -> Path:
    """Return a folder for the adapter: that of the attempt that has trained it holds it already."""
    trained = workspace.scratch("final")
    return trained if (trained / "run.json").exists() else workspace.scratch("adapter")


class _ProgressEmitter:
    """Tells how far the answers are; the steps of the stage are those of training, which is over.

    Args:
        emit: Where events go.
        step: The last step.
    """

    def __init__(self, emit: EventEmitter, step: int) -> None:
        self._emit, self._step = emit, step
        self._tenths = 0

    def __call__(self, done: int, total: int) -> None:
        """Say that it goes on, and at every tenth how far it is."""
        tenths, words = 10 * done // max(1, total), ""
        if tenths > self._tenths:
            self._tenths = tenths
            words = f"answers to validation rows: {done:,} of {total:,} asks are over"
        self._emit.progress(step=self._step, total_steps=self._step, message=words)


def _samples(
    metric: str, questions: list[Question], said: Answers, measured: Measured
) -> Iterator[dict[str, Any]]:
    """Yield what is kept of each row: what was asked and answered, and what that scores."""
    is_likelihood = metric in LIKELIHOOD_METRICS
    scored = questions if is_likelihood else with_prompt(questions)
    for place, question in enumerate(scored):
        sample: dict[str, Any] = {
            "prompt": question.prompt,
            "references": question.references,
            "answer": said.texts[place] if said.texts else None,
            "score": round(float(measured.rows[place]), 4),
            "group": name_group(question),
        }
        if is_likelihood:
            sample["num_tokens"] = int(said.num_tokens[place])
            sample["num_bytes"] = None if said.num_bytes is None else int(said.num_bytes[place])
        yield sample


def _store(
    services: Services, score: ValidationScore, samples: Iterable[dict[str, Any]], dataset: str
) -> None:
    folder = services.workspace.scratch(FOLDER, fresh=True)
    (folder / SCORE_NAME).write_text(json.dumps(score.to_wire(), indent=1) + "\n")
    with (folder / SAMPLES_NAME).open("w", encoding="utf-8", newline="\n") as file:
        for sample in samples:
            file.write(json.dumps(sample, ensure_ascii=False) + "\n")
    store, run = services.storage.output, services.storage.job.run_prefix
    publish_folder(
        store,
        f"{run}/{FOLDER}",
        folder,
        created_by="finetune_trainer train",
        inputs={"dataset": dataset},
    )
    drop_answers(store, run)


def _tell(score: ValidationScore) -> str:
    if score.reason:
        return (
            f"{score.metric} on validation rows was not measured: {score.reason}: {score.message}; "
            "the adapter is stored all the same"
        )
    return (
        f"{score.metric} {score.value} [{score.low}, {score.high}] on {score.num_samples} "
        "validation rows"
    )
