"""Reads a prepared data set back for ``train`` and ``evaluate``."""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.protocol.stage_results import QuestionCount
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.keys import dataset_prefix, pointer_key, uri_of
from finetune_trainer.data.report import DatasetPointer, DatasetReport
from finetune_trainer.data.rows import Side
from finetune_trainer.data.token_files import TRAINED_SPLITS, map_tokens, token_file
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.storage import Manifest, ObjectStore, fetch_folder, read_json, read_manifest

REPORT_NAME = "report.json"
INVALID_ROWS_NAME = "invalid-rows.jsonl"
"""All rows that were left out as invalid; absent where there are none."""
REMOVED_NAME = "removed-rows.jsonl"
"""Rows that were left out because another one says the same or contradicts them."""
CONFLICTS_NAME = "conflicts.jsonl"
"""Rows whose question has another label elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A prepared data set, fetched and verified.

    Attributes:
        rows: Rows of the requested sides, in their order: ``messages``, or ``prompt`` and
            ``completion``, or ``text``; and ``metadata`` (source, line, group).
        digest: The data set's version.
        uri: Its folder in storage.
        report: Its report.
        folder: Its local copy.
        questions: Number of held-out questions; None where the job sets it.
        origins: How many held-out prompts ``spec.initFrom`` was trained on; empty without.
    """

    rows: Mapping[Side, list[dict[str, Any]]]
    digest: str
    uri: str
    report: DatasetReport
    folder: Path
    questions: QuestionCount | None = None
    origins: str = ""

    @property
    def num_chosen(self) -> int | None:
        """Held-out questions that ``prepare`` chose; None where the job says it itself."""
        return None if self.questions is None else self.questions.number

    @property
    def train(self) -> list[dict[str, Any]]:
        """Rows to learn from."""
        return self.rows[Side.TRAIN]

    @property
    def validation(self) -> list[dict[str, Any]]:
        """Rows to watch the loss on."""
        return self.rows[Side.VALIDATION]

    @property
    def test(self) -> list[dict[str, Any]]:
        """Held-out rows."""
        return self.rows[Side.TEST]


def read_prepared(
    output: ObjectStore,
    job: ResolvedJob,
    work_dir: Path,
    *,
    sides: Collection[Side] = tuple(Side),
    fetched: Collection[Side] = (),
    approved: str | None = None,
) -> Prepared:
    """Fetch the run's data set to the work folder, verify its checksums and load its rows.

    Args:
        output: Storage rooted at the job's output.
        job: The effective job.
        work_dir: The run's scratch folder on this node.
        sides: Sides whose rows are loaded; they fill memory.
        fetched: Sides whose rows are only fetched.
        approved: Digest of the only permitted data set; None for any.

    Raises:
        UserError: ``DatasetNotPrepared``: this run has no data set yet. ``DatasetNotApproved``: it
            is not the approved one.
        StorageError: The data set is incomplete, changed, or cannot be read.
    """
    left_out = {f"{side}.jsonl" for side in Side if side not in (*sides, *fetched)}
    left_out |= {token_file(Path(), side).name for side in TRAINED_SPLITS} | {INVALID_ROWS_NAME}
    prepared = _fetch_pinned(output, job, work_dir, left_out, approved)
    rows = {side: _load_rows(prepared.folder / f"{side}.jsonl") for side in sides}
    return replace(prepared, rows=rows)


def read_tokens(
    output: ObjectStore, job: ResolvedJob, work_dir: Path, *, approved: str | None = None
) -> Prepared:
    """Fetch the tokens of the run's data set for the ranks to map.

    Rows are fetched only for preferences, which the ranks encode. Arguments and errors as for
    :func:`read_prepared`.
    """
    if job.spec.method.objective != "SFT":
        return read_prepared(
            output, job, work_dir, sides=(), fetched=TRAINED_SPLITS, approved=approved
        )
    left_out = {*(f"{side}.jsonl" for side in Side), INVALID_ROWS_NAME}
    prepared = _fetch_pinned(output, job, work_dir, left_out, approved)
    for side in TRAINED_SPLITS:
        map_tokens(prepared.folder, side)
    return prepared


def require_approved(digest: str, approved: str | None, what: str) -> None:
    """Refuse another data set than the approved one.

    ``what`` names the object that uses ``digest``. ``approved`` None allows any data set.

    Raises:
        UserError: ``DatasetNotApproved``.
    """
    if approved is not None and digest != approved:
        raise UserError(
            "DatasetNotApproved",
            f"{what} rests on data set {digest}, and what was approved is {approved}: the data or "
            "its settings changed after somebody had looked at them; nothing is read. Start the "
            "job again under a new name, and have the data set looked at that it prepares",
        )


def fetch_prepared(
    output: ObjectStore,
    job: ResolvedJob,
    work_dir: Path,
    digest: str,
    *,
    left_out: Container[str] = (),
) -> tuple[Path, Manifest, DatasetReport]:
    """Fetch and verify a data set by its digest; present files are not fetched again.

    ``left_out`` are files that are not needed.

    Raises:
        StorageError: The folder is incomplete, changed, or holds no readable report.
    """
    folder = work_dir / "datasets" / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    prefix = dataset_prefix(digest)
    files = read_manifest(output, prefix).files
    wanted = {file.path for file in files if file.path not in left_out}
    manifest = fetch_folder(output, prefix, folder, only=wanted)
    try:
        report = DatasetReport.model_validate_json((folder / REPORT_NAME).read_bytes())
    except (OSError, ValidationError) as error:
        raise StorageError(
            "DatasetUnreadable",
            f"{uri_of(job, dataset_prefix(digest))}/{REPORT_NAME} cannot be read: {error}; it "
            "was written by another version: delete that folder and start the job again",
        ) from error
    return folder, manifest, report


def _fetch_pinned(
    output: ObjectStore,
    job: ResolvedJob,
    work_dir: Path,
    left_out: Container[str],
    approved: str | None,
) -> Prepared:
    pointer = _read_pointer(output, job)
    if job.spec.evaluation.max_samples == "auto" and pointer.questions is None:
        raise UserError(
            "DatasetNotPrepared",
            f"{uri_of(job, pointer_key(job))} does not say how many held-out questions are asked "
            "(evaluation.maxSamples: auto): another version wrote it. Run stage prepare of this "
            "job again",
        )
    require_approved(pointer.digest, approved, f"{uri_of(job, pointer_key(job))}")
    folder, manifest, report = fetch_prepared(
        output, job, work_dir, pointer.digest, left_out=left_out
    )
    if manifest.digest != pointer.manifest_digest:
        raise StorageError(
            "DatasetChanged",
            f"the data set at {pointer.uri} is not the one this run was prepared with (files "
            f"{manifest.digest}, expected {pointer.manifest_digest}); delete that folder and start "
            "the job again under a new name",
        )
    return Prepared(
        rows={},
        digest=pointer.digest,
        uri=pointer.uri,
        report=report,
        folder=folder,
        questions=pointer.questions,
        origins=pointer.origins,
    )


def _read_pointer(output: ObjectStore, job: ResolvedJob) -> DatasetPointer:
    key = pointer_key(job)
    value = read_json(output, key)
    if value is None:
        raise UserError(
            "DatasetNotPrepared",
            f"there is no {uri_of(job, key)}: run stage prepare of this job first",
        )
    try:
        return DatasetPointer.model_validate(value)
    except ValidationError as error:
        raise StorageError(
            "DatasetUnreadable", f"{uri_of(job, key)} is not a data set pointer: {error}"
        ) from error


def _load_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]
