"""Notes on attempts that hung or ran out of memory: ``attempts/<n>/end.json`` and stacks.

The next attempt reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_trainer.errors import Hang, OutOfMemory, TrainerError
from finetune_trainer.run import RunStorage
from finetune_trainer.storage import AlreadyExists, ObjectStore
from finetune_trainer.train.parent.launch import RECIPE_NAME
from finetune_trainer.train.recipe.lesson import End, with_next_attempt

MAX_TRIES = 20
_END = re.compile(r"(\d+)/end\.json")


@contextmanager
def noting_end(storage: RunStorage, control_dir: Path) -> Iterator[None]:
    """Store a note below the run if the block hangs or runs out of memory.

    ``control_dir`` holds the recipe and the stacks of the ranks.

    Raises:
        UserError: It ran out of memory, and no attempt can use less.
        TrainerError: As the block raised it; the message says what the next attempt does.
    """
    try:
        yield
    except (Hang, OutOfMemory) as error:
        recipe = control_dir / RECIPE_NAME
        end = end_of(error, json.loads(recipe.read_text()) if recipe.exists() else {})
        texts = {path.name: path.read_text() for path in control_dir.glob("stacks-*.txt")}
        stacks = {name: text for name, text in texts.items() if text}
        try:
            key = note_end(storage.output, storage.job.run_prefix, end, stacks)
        except TrainerError as failure:
            error.message += f" (this could not be noted in storage: {failure.message})"
            raise error from failure
        if stacks:
            error.message += f"; the stacks of all ranks are in {storage.uri_of(key)}"
        if isinstance(error, OutOfMemory):
            raise with_next_attempt(storage.job, end, error) from None
        raise


def end_of(error: TrainerError, recipe: Mapping[str, Any]) -> End:
    """Return the note on an attempt that ended with ``error``; ``recipe`` may be empty."""
    return End(
        failure_class=error.failure_class,
        reason=error.reason,
        message=error.message,
        rank=getattr(error, "rank", None),
        step=getattr(error, "step", None),
        micro_batch_size=int(recipe.get("micro_batch_size", 0)),
        activation_checkpointing=bool(recipe.get("activation_checkpointing", False)),
        ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def note_end(store: ObjectStore, run_prefix: str, end: End, files: Mapping[str, str]) -> str:
    """Store the note, and texts beside it, under the next free number; return the folder's key.

    Raises:
        StorageError: The store failed.
    """
    body = json.dumps(asdict(end), indent=1, sort_keys=True) + "\n"
    number = max(_numbers(store, run_prefix), default=0)
    for _ in range(MAX_TRIES):
        number += 1
        key = f"{run_prefix}/attempts/{number}"
        try:
            store.write_bytes(f"{key}/end.json", body.encode(), if_absent=True)
        except AlreadyExists:  # another node of this attempt was first
            continue
        break
    for name, text in files.items():
        store.write_bytes(f"{key}/{name}", text.encode())
    return key


def read_ends(store: ObjectStore, run_prefix: str) -> list[End]:
    """Read the notes of earlier attempts, oldest first. Raise ``StorageError`` on failure."""
    ends = []
    for number in _numbers(store, run_prefix):
        wire = json.loads(store.read_bytes(f"{run_prefix}/attempts/{number}/end.json"))
        known = {name: wire[name] for name in End.__slots__ if name in wire}
        if len(known) == len(End.__slots__):
            ends.append(End(**known))
    return ends


def _numbers(store: ObjectStore, run_prefix: str) -> list[int]:
    start = f"{run_prefix}/attempts/"
    names: Iterable[str] = (item.key.removeprefix(start) for item in store.list(start))
    return sorted(int(match.group(1)) for name in names if (match := _END.fullmatch(name)))
