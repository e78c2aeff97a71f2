"""Read a prepared data set back: what ``train`` and ``evaluate`` start from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from finetune_api.trainer import ResolvedJob
from finetune_trainer.data.report import DatasetPointer, DatasetReport
from finetune_trainer.data.rows import Side
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.storage import Manifest, fetch_folder

if TYPE_CHECKING:
    from finetune_trainer.context import StageContext

REPORT_NAME = "report.json"
POINTER_NAME = "dataset.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A prepared data set, fetched and verified.

    Attributes:
        rows: Rows of each side, in their order. Each holds ``messages``, or ``prompt`` and
            ``completion``, or ``text``; and ``metadata`` (source, line, group).
        digest: The data set's version.
        uri: Its folder in storage.
        report: Its report.
        folder: Its local copy.
    """

    rows: Mapping[Side, list[dict[str, Any]]]
    digest: str
    uri: str
    report: DatasetReport
    folder: Path

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


def pointer_key(job: ResolvedJob) -> str:
    """Return the key of the run's pointer."""
    return f"{job.run_prefix}/{POINTER_NAME}"


def dataset_prefix(digest: str) -> str:
    """Return the key prefix of a prepared data set."""
    return f"datasets/{digest}"


def read_prepared(context: StageContext) -> Prepared:
    """Fetch the run's data set to the work folder, verify its checksums and load it.

    Raises:
        UserError: ``DatasetNotPrepared``: this run has no data set yet.
        StorageError: The data set is incomplete, changed, or cannot be read.
    """
    pointer = _read_pointer(context)
    folder, manifest, report = fetch_prepared(context, pointer.digest)
    if manifest.digest != pointer.manifest_digest:
        raise StorageError(
            "DatasetChanged",
            f"the data set at {pointer.uri} is not the one this run was prepared with (files "
            f"{manifest.digest}, expected {pointer.manifest_digest}); delete that folder and start "
            "the job again under a new name",
        )
    return Prepared(
        rows={side: _load_rows(folder / f"{side}.jsonl") for side in Side},
        digest=pointer.digest,
        uri=pointer.uri,
        report=report,
        folder=folder,
    )


def fetch_prepared(context: StageContext, digest: str) -> tuple[Path, Manifest, DatasetReport]:
    """Fetch a data set by its digest, verified; what is there already is not fetched again.

    Raises:
        StorageError: The folder is incomplete, changed, or holds no readable report.
    """
    folder = context.scratch(f"datasets/{digest[:16]}")
    manifest = fetch_folder(context.output, dataset_prefix(digest), folder)
    try:
        report = DatasetReport.model_validate_json((folder / REPORT_NAME).read_bytes())
    except (OSError, ValidationError) as error:
        raise StorageError(
            "DatasetUnreadable",
            f"{context.uri_of(dataset_prefix(digest))}/{REPORT_NAME} cannot be read: {error}; it "
            "was written by another version: delete that folder and start the job again",
        ) from error
    return folder, manifest, report


def _read_pointer(context: StageContext) -> DatasetPointer:
    key = pointer_key(context.job)
    value = context.read_json(key)
    if value is None:
        raise UserError(
            "DatasetNotPrepared",
            f"there is no {context.uri_of(key)}: run stage prepare of this job first",
        )
    try:
        return DatasetPointer.model_validate(value)
    except ValidationError as error:
        raise StorageError(
            "DatasetUnreadable", f"{context.uri_of(key)} is not a data set pointer: {error}"
        ) from error


def _load_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]
