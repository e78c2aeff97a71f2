"""Reads ``dataset.anchor``: the test side of an earlier data set, which is held out again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from finetune_trainer.data.keys import dataset_prefix
from finetune_trainer.data.looks import digest_rows
from finetune_trainer.data.rows import RowFile, Side, is_sealed, open_sealed
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.prepare.rows.spool import Spool, pack_rows
from finetune_trainer.run import RunStorage, Workspace
from finetune_trainer.storage import ObjectNotFound

_PIECE_ROWS = 500
_NEW_ANCHOR = (
    "name another data set in dataset.anchor, or begin with another FineTuneSchedule, whose first "
    "cycle seals a new one"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """The test side that ``dataset.anchor`` names.

    Attributes:
        rows: Its rows.
        digest: What looks at it are counted by: that of all rows that were sealed.
    """

    rows: RowFile
    digest: str


def fetch_sealed(storage: RunStorage, workspace: Workspace) -> Sealed | None:
    """Fetch the test side that ``dataset.anchor`` names; None where the job has no anchor.

    Rows whose captured answer has been deleted are left out.

    Raises:
        UserError: ``AnchorNotFound`` or ``AnchorChanged``.
        StorageError: Storage failed.
    """
    anchor = storage.job.spec.dataset.anchor
    if anchor is None:
        return None
    key = f"{dataset_prefix(anchor.digest)}/{Side.TEST}.jsonl"
    path = workspace.scratch("anchor") / f"{anchor.test_sha256}.jsonl"
    path.unlink(missing_ok=True)
    try:
        storage.output.download_file(key, path)
    except ObjectNotFound as error:
        raise UserError(
            "AnchorNotFound",
            f"dataset.anchor names {storage.uri_of(key)}, and there is nothing: somebody deleted "
            f"it, or output.uri was another one. Put the folder back, or {_NEW_ANCHOR}",
        ) from error
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != anchor.test_sha256:
        raise UserError(
            "AnchorChanged",
            f"{storage.uri_of(key)} is not what was sealed: its SHA-256 is {found}, and "
            f"dataset.anchor.testSha256 is {anchor.test_sha256}. Put the file back, or "
            f"{_NEW_ANCHOR}",
        )
    with path.open("rb") as stream:
        sealed = RowFile(path=path, num_rows=sum(1 for _ in stream))
    digest = digest_rows(sealed)
    deleted = storage.find_deleted(row["metadata"] for row in sealed)
    if deleted:
        storage.say(
            f"{len(deleted)} of the {len(sealed)} rows of dataset.anchor come from captured "
            "answers that were deleted, and are left out"
        )
    return Sealed(rows=sealed.leave_out(deleted), digest=digest)


def add_sealed(sealed: RowFile, spool: Spool, objective: str, *, conversational: bool) -> None:
    """Put the rows of an anchor on the test side, as they are: no check and no step changes them.

    Raises:
        DataError: ``AnchorUnfit``: the job cannot use such rows.
    """
    rows = map(open_sealed, _read(sealed, objective, conversational))
    while piece := list(islice(rows, _PIECE_ROWS)):
        spool.add(pack_rows(piece))


def require_all_sealed(test: RowFile, sealed: RowFile) -> None:
    """Refuse a test side that lacks rows of the anchor.

    Raises:
        DataError: ``AnchorUnfit``.
    """
    number = sum(map(is_sealed, test))
    if number != len(sealed):
        raise DataError(
            "AnchorUnfit",
            f"{len(sealed) - number} of the {len(sealed)} rows of dataset.anchor are longer than "
            "hyperparameters.maxSequenceLength, and dataset.onTooLong would leave them out. Raise "
            f"maxSequenceLength to what it was, or {_NEW_ANCHOR}",
        )


def _read(sealed: RowFile, objective: str, conversational: bool) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(sealed, start=1):
        if problem := _find_problem(row, objective, conversational):
            raise DataError(
                "AnchorUnfit",
                f"row {number} of dataset.anchor {problem}. Set that as it was when the rows were "
                f"sealed, or {_NEW_ANCHOR}",
            )
        yield row


def _find_problem(row: dict[str, Any], objective: str, conversational: bool) -> str:
    has_verdict, has_pair = "label" in row, "rejected" in row
    if objective == "SFT":
        is_fit = not (has_verdict or has_pair)
    else:
        is_fit = has_pair or (objective == "KTO" and has_verdict)
    if not is_fit:
        return f"is of another kind than rows of method.objective {objective}"
    is_plain = isinstance(row.get("prompt"), str)
    if "text" not in row and is_plain == conversational:
        template = "has no chat template" if is_plain else "has a chat template"
        return f"was prepared for a model that {template}, unlike model.uri"
    return ""
