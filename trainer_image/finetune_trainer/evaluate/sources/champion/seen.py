"""How many held-out questions a published version was trained on: they flatter it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_api.protocol.evaluation_result import PublishedVersion
from finetune_trainer.data.rows import prompt_of
from finetune_trainer.errors import StorageError
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.sources.champion.version import DAMAGED, FoundPublished
from finetune_trainer.evaluate.train_side import read_stored_train_split
from finetune_trainer.run import RunStorage


def add_seen_prompts(
    storage: RunStorage, work_dir: Path, found: FoundPublished, questions: Sequence[Question]
) -> PublishedVersion:
    """Return what reports say of the published version, with how much of the questions it knew.

    Args:
        storage: The run's.
        work_dir: The run's scratch folder on this node.
        found: What is known of it.
        questions: The held-out questions.

    Raises:
        StorageError: Storage failed.
    """
    if found.source is None or found.record is None:
        return found.told
    name = f"version {found.told.version}"
    number, problem = _count(storage, work_dir, found.record.get("dataset"), questions)
    seen = f"whether {name} was trained on held-out prompts is not known: {problem}"
    if number is not None:
        favoured = ", which favours it" if number else ""
        asked = f"{number} of {len(questions)} held-out prompts were in the data that {name}"
        seen = f"{asked} was trained on{favoured}"
    if origin := found.record.get("initFrom"):
        seen += f"; it began from {origin['uri']}, whose data was not looked at"
    storage.say(seen)
    return found.told.model_copy(update={"num_seen": number, "seen": seen})


def _count(
    storage: RunStorage, work_dir: Path, digest: object, questions: Sequence[Question]
) -> tuple[int | None, str]:
    if not isinstance(digest, str) or not digest:
        return None, "it does not say which data that was"
    try:
        rows, problem = read_stored_train_split(storage.output, storage.job, work_dir, digest)
        return (None, problem) if problem else (count_seen(questions, rows), "")
    except DAMAGED as error:
        return None, f"data set {digest[:12]} is not in storage, or damaged ({error.reason})"
    except StorageError as error:
        if error.reason not in ("DatasetUnreadable", "ManifestInvalid"):
            raise
        return None, f"data set {digest[:12]} cannot be read ({error.reason})"


def count_seen(questions: Sequence[Question], rows: Iterable[Mapping[str, Any]]) -> int:
    """Count the questions whose prompt, with its tools, occurs in rows. Pure.

    Args:
        questions: The questions.
        rows: Prepared rows.
    """
    known = {_digest(row) for row in rows}
    return sum(any(_digest(row) in known for row in q.rows[:1]) for q in questions)


def _digest(row: Mapping[str, Any]) -> bytes:
    text = json.dumps([prompt_of(dict(row)), row.get("tools")], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()[:16]
