"""Refuses to begin on captured answers that have been deleted since they were prepared."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from finetune_trainer.data.responses import read_responses
from finetune_trainer.errors import DataError
from finetune_trainer.run import RunStorage
from finetune_trainer.traffic.reading import read_deleted
from finetune_trainer.train.parent.storing import checkpoints_prefix


def refuse_deleted(storage: RunStorage, folder: Path) -> None:
    """Look up the answers behind a data set, unless the run has trained on it already.

    ``folder`` is the data set's local copy.

    Raises:
        DataError: ``AnswersDeletedSince``: some have been deleted.
        StorageError: The traffic cannot be read.
    """
    places = storage.job.traffic or ()
    if not places or any(True for _ in storage.output.list(f"{checkpoints_prefix(storage.job)}/")):
        return
    deleted = [read_deleted(storage.open_traffic(place.endpoint)) for place in places]
    number = 0
    for origin in read_responses(folder):
        time = datetime.fromisoformat(origin.time)
        number += any(each.covers(origin.response_id, origin.user, time) for each in deleted)
    if number:
        raise DataError(
            "AnswersDeletedSince",
            f"{number} rows of the data set come from captured answers that were deleted after it "
            "was prepared; nothing is trained on it. Start the job again under a new name: its "
            "data set is made without them",
        )
