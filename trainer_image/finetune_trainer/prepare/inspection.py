"""Inspects a job's data with the steps of the stage, and publishes nothing.

Each refusal is collected, and the steps run again with it tolerated, so that the user sees all
reasons at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune_api.protocol.stage_results import QuestionCount
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.asking import most_asked
from finetune_trainer.data.difference import count_words
from finetune_trainer.data.report import DatasetReport, LengthBin
from finetune_trainer.data.rows import RowFile, Side
from finetune_trainer.errors import DataError, TrainerError, UserError
from finetune_trainer.pages.histogram import count_bins
from finetune_trainer.prepare.building import build, divide_sources, staging_of
from finetune_trainer.prepare.checks.conversations import fetch_template
from finetune_trainer.prepare.checks.labels import check_labels, count_labels
from finetune_trainer.prepare.fetching import fetch_sources
from finetune_trainer.prepare.privacy.step import make_shield
from finetune_trainer.prepare.reading.lengths import (
    Bulk,
    RowLength,
    estimate_tokens,
    find_limit,
)
from finetune_trainer.prepare.reading.sources import SourceFile
from finetune_trainer.prepare.refusals.served import find_unserved
from finetune_trainer.prepare.report.documents import make_decode
from finetune_trainer.prepare.report.samples import Sample, read_samples
from finetune_trainer.prepare.report.summary import count_rows, make_report
from finetune_trainer.prepare.stage import require_evidence
from finetune_trainer.prepare.version import compute_version
from finetune_trainer.prepare.workers import Workers, num_processes_granted
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.run import BaseModel, RunStorage, Workspace
from finetune_trainer.verdict.certainty import at_first_look

NUM_OUTLIERS_SHOWN = 20

LONGEST_ROW = 1_048_576
"""Length limit under which nothing is cut: the API's largest."""

TOLERATED: dict[str, dict[str, Any]] = {
    "InvalidRows": {"dataset.maxInvalidRows": 1_000_000},
    "RowsTooLong": {"dataset.onTooLong": "Truncate"},
    "AllRowsTooLong": {
        "dataset.onTooLong": "Truncate",
        "hyperparameters.maxSequenceLength": LONGEST_ROW,
    },
    "ContradictoryLabels": {"dataset.onConflict": "Report"},
    "Contaminated": {"dataset.contamination.onMatch": "Drop"},
}
"""Changes of a job that let the steps continue after a refusal, by its reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Lengths of the training side's rows.

    Attributes:
        unit: ``tokens``, ``tokens, estimated`` or ``words``.
        p50: Median (nearest rank).
        p95: 95th percentile (nearest rank).
        longest: The longest.
        bins: A histogram.
    """

    unit: str
    p50: int
    p95: int
    longest: int
    bins: tuple[LengthBin, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """The known facts about a job's data before publication.

    Attributes:
        report: The stage's report; None if the stage stops earlier. Without a model it has no
            digest and no tokens.
        refusals: Why the stage would refuse the job.
        questions: Held-out questions to ask; None where the job sets them.
        lengths: Lengths of the training rows, in several units.
        samples: Three examples as they would be trained; none without a model.
        bulk: All rows without the far longest, by estimated lengths; None without such rows.
        folder: The prepared rows.
    """

    report: DatasetReport | None = None
    refusals: tuple[TrainerError, ...] = ()
    questions: QuestionCount | None = None
    lengths: tuple[Lengths, ...] = ()
    samples: tuple[Sample, ...] = field(default=())
    bulk: Bulk | None = None
    folder: Path | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return it for machines, in camelCase."""
        return {
            "refusals": [{"reason": e.reason, "message": e.message} for e in self.refusals],
            "questions": self.questions.to_wire() if self.questions else None,
            "report": self.report.to_wire() if self.report else None,
            "lengths": [
                {
                    "unit": each.unit,
                    "p50": each.p50,
                    "p95": each.p95,
                    "longest": each.longest,
                    "histogram": [one.to_wire() for one in each.bins],
                }
                for each in self.lengths
            ],
            "bulk": _bulk_to_wire(self.bulk),
            "samples": [
                {
                    "what": sample.what,
                    "example": sample.position,
                    "tokens": sample.num_tokens,
                    "learnedTokens": sample.num_learned,
                    "pieces": [
                        {"text": piece.text, "learned": piece.is_learned} for piece in sample.pieces
                    ],
                }
                for sample in self.samples
            ],
        }


def inspect_sources(
    model: BaseModel, workspace: Workspace, emit: EventEmitter, *, with_model: bool
) -> Inspection:
    """Read, check, divide and, with a model, encode the job's data.

    It writes only to the output's run folder. ``with_model`` fetches the tokenizer and counts
    tokens.

    Raises:
        StorageError: Data or model cannot be read.
    """
    refusals: list[TrainerError] = []
    storage = model.storage
    job = storage.job
    while True:
        try:
            files = fetch_sources(storage, workspace)
            if with_model:
                found = _look_with_model(job, files, model, workspace, emit)
            else:
                found = _look_without_model(job, files, storage, workspace, emit)
            break
        except (DataError, UserError) as error:
            refusals.append(error)
            tolerant = tolerate(job, error.reason)
            if tolerant is None or tolerant == job:
                return Inspection(refusals=tuple(refusals))
            job = tolerant
    questions, folder = None, staging_of(workspace, _digest_of(found))
    try:
        questions = require_evidence(storage, folder, at_first_look(storage.job.spec))
    except (DataError, UserError) as error:
        refusals.append(error)
    if with_model:
        most = most_asked(job.spec.evaluation, questions.number if questions else None)
        refusals += find_unserved(model, folder, num_questions=most)
    return replace(found, refusals=tuple(refusals), questions=questions, folder=folder)


def tolerate(job: ResolvedJob, reason: str) -> ResolvedJob | None:
    """Return the job with this refusal tolerated; None if no change helps."""
    if reason not in TOLERATED:
        return None
    body = job.to_wire()
    for path, value in TOLERATED[reason].items():
        *parents, last = path.split(".")
        place = body["spec"]
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return ResolvedJob.model_validate(body)


def _digest_of(found: Inspection) -> str:
    return found.report.digest if found.report else ""


def _look_without_model(
    job: ResolvedJob,
    files: list[list[SourceFile]],
    storage: RunStorage,
    workspace: Workspace,
    emit: EventEmitter,
) -> Inspection:
    staging = staging_of(workspace, "", fresh=True)
    with Workers(num_processes_granted()) as workers:
        read, division, findings, sides = divide_sources(
            job, files, (), staging, workers,
            storage=storage, workspace=workspace, emit=emit, conversational=True,
        )  # fmt: skip
    shield = make_shield(job.spec.dataset.privacy)
    labels = count_labels(sides, show=shield.shield_text)
    report = make_report(
        job, "", read, division, [*findings, *check_labels(labels)], {}, {},
        rows=count_rows(sides), remedies=(), labels=labels.counts,
    )  # fmt: skip
    return Inspection(
        report=report, lengths=_estimate_lengths(sides), bulk=_find_bulk([*sides.values()])
    )


def _look_with_model(
    job: ResolvedJob,
    files: list[list[SourceFile]],
    model: BaseModel,
    workspace: Workspace,
    emit: EventEmitter,
) -> Inspection:
    _, revision = model.fetch(include_weights=False)
    named = job.spec.model
    template = fetch_template(named, model.storage.access(named.credentials_ref))
    digest = compute_version(job.spec, files, model_revision=revision, chat_template=template)
    report = build(job, files, digest, template, model, workspace, emit)
    lengths = []
    for sides in report.tokens.values():
        if Side.TRAIN in sides:
            train = sides[Side.TRAIN]
            lengths.append(
                Lengths(
                    unit="tokens",
                    p50=train.p50,
                    p95=train.p95,
                    longest=train.longest,
                    bins=tuple(train.histogram),
                )
            )
    staging = staging_of(workspace, digest)
    samples = read_samples(staging, make_decode(model.load_tokenizer()))
    written = [RowFile(path=staging / f"{side}.jsonl", num_rows=0) for side in Side]
    return Inspection(
        report=report,
        lengths=tuple(lengths),
        samples=tuple(samples),
        bulk=_find_bulk([side for side in written if side.path.exists()]),
    )


def _find_bulk(sides: Sequence[RowFile]) -> Bulk | None:
    """Part the outliers of all sides; None where there is none."""
    lengths = array("q", (estimate_tokens(row) for side in sides for row in side))
    limit = find_limit(lengths) if lengths else 0
    if not lengths or max(lengths) == limit:
        return None
    rows = zip(lengths, (row["metadata"] for side in sides for row in side), strict=True)
    return Bulk(
        longest=limit,
        outliers=tuple(
            RowLength(file=place["source"], line=place["line"], num_tokens=length)
            for length, place in rows
            if length > limit
        ),
    )


def _bulk_to_wire(bulk: Bulk | None) -> dict[str, Any] | None:
    if bulk is None:
        return None
    return {
        "longest": bulk.longest,
        "outliers": len(bulk.outliers),
        "first": [
            {"file": row.file, "line": row.line, "tokens": row.num_tokens}
            for row in bulk.outliers[:NUM_OUTLIERS_SHOWN]
        ],
    }


def _estimate_lengths(sides: Mapping[Side, RowFile]) -> tuple[Lengths, ...]:
    estimates, words = [], []
    for row in sides[Side.TRAIN]:
        estimates.append(estimate_tokens(row))
        words.append(count_words(row))
    return tuple(
        _summarise(unit, values)
        for unit, values in (("tokens, estimated", estimates), ("words", words))
        if values
    )


def _summarise(unit: str, values: list[int]) -> Lengths:
    ordered = sorted(values)

    def percentile(percent: int) -> int:
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

    return Lengths(
        unit=unit,
        p50=percentile(50),
        p95=percentile(95),
        longest=ordered[-1],
        bins=tuple(LengthBin(at_least=b.at_least, rows=b.count) for b in count_bins(ordered)),
    )
