"""Refuses to begin on captured answers that have been deleted since they were prepared."""

from __future__ import annotations

from pathlib import Path

from finetune_trainer.errors import DataError
from finetune_trainer.run import RunStorage
from finetune_trainer.train.parent.storing import checkpoints_prefix


def refuse_deleted(storage: RunStorage, folder: Path) -> None:
    """Refuse a data set with deleted answers, unless the run has trained on it already.

    ``folder`` is the data set's local copy.

    Raises:
        DataError: ``AnswersDeletedSince``: some have been deleted.
        StorageError: The traffic cannot be read.
    """
    number = storage.count_deleted(folder)
    if number and not any(True for _ in storage.output.list(checkpoints_prefix(storage.job))):
        raise DataError(
            "AnswersDeletedSince",
            f"{number} rows of the data set come from captured answers that were deleted after it "
            "was prepared; nothing is trained on it. Start the job again under a new name: its "
            "data set is made without them",
        )
