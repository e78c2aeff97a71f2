"""Makes every checkpoint that Trainer saves durable, behind training.

Of each node one rank stores the node's files in a thread while training goes on; at most one
checkpoint is on its way, and the next save waits for it. Files are streamed from the local disk,
so that memory stays as it is and the disk holds two checkpoints at most.

Threads never take part in collectives. On one node the thread that stores also commits. On several
nodes all ranks ask each other after every step whether all parts are stored; then rank 0 has the
entries of all and its thread commits. A failure surfaces at the next step, on every node.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import ManifestFile, ObjectStore
from finetune_trainer.train.checkpoint import (
    commit_checkpoint,
    drop_newer,
    drop_old,
    upload_checkpoint,
)

DRAIN_SECONDS = 60.0
"""How long a rank that failed waits for its checkpoint on the way."""

STALL_WORTH_TELLING_SECONDS = 1.0

_Part = list[ManifestFile] | TrainerError
"""What came of a node's part of a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A checkpoint on the local disk that is on its way to storage.

    Attributes:
        step: Its optimiser step.
        folder: Where Trainer has saved it.
        curve: Copy of the training curve at that step; rank 0 only.
    """

    step: int
    folder: Path
    curve: Path | None


class DurableCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Stores what Trainer saves, on all nodes, and commits it with a manifest.

    Args:
        store: The run's storage.
        prefix: Key prefix of the run's checkpoints.
        keep: Complete checkpoints to keep.
        curve: Local training curve.
        curve_key: Where it is stored.
        inputs: What checkpoints are made from, for their manifests.
        resumed_from: Step that training resumes at, 0 for none.
        tell: Called with a message for people, on rank 0.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        *,
        keep: int,
        curve: Path,
        curve_key: str,
        inputs: Mapping[str, str],
        resumed_from: int,
        tell: Callable[[str], None],
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._keep = keep
        self._curve = curve
        self._curve_key = curve_key
        self._inputs = inputs
        self._resumed_from = resumed_from
        self._tell = tell
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saved: Saved | None = None
        self._part: Future[list[ManifestFile]] | None = None
        self._commit: Future[None] | None = None
        self._is_first = False
        self._has_several_nodes = False
        self.stall_seconds = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Clear the way: what lies beyond the resumed step is damaged or unfinished."""
        num_local = int(os.environ.get("LOCAL_WORLD_SIZE") or args.world_size)
        self._has_several_nodes = args.world_size > num_local
        self._is_first = state.is_world_process_zero
        if self._is_first:
            drop_newer(self._store, self._prefix, than=self._resumed_from)
            # The attempt before may have died between a commit and its clean-up.
            drop_old(self._store, self._prefix, newest=self._resumed_from, keep=self._keep)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Let failures of the checkpoint on its way surface; commit it once all parts are there."""
        if self._commit is not None and self._commit.done():
            self._finish_commit()
        if self._saved is None:
            return
        done = self._part is None or self._part.done()
        if self._has_several_nodes:
            vote = torch.tensor([int(done)], device=args.device)
            dist.all_reduce(vote, op=dist.ReduceOp.MIN)
            done = bool(vote.item())
        if done:
            self._finish_part()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Wait for the checkpoint before, then start to store this one."""
        began, before = time.monotonic(), self._saved
        self._finish_part()
        self._finish_commit()
        stalled = time.monotonic() - began
        _barrier()  # every rank has written its files
        self.stall_seconds += stalled
        if self._is_first and before is not None and stalled > STALL_WORTH_TELLING_SECONDS:
            self._tell(
                f"training waited {stalled:.1f} s at step {state.global_step} for the checkpoint "
                f"of step {before.step} to reach storage; raise checkpoint.everySteps or use "
                "faster storage if this repeats"
            )
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._saved = Saved(
            step=state.global_step, folder=folder, curve=self._copy_curve(args, state)
        )
        if args.local_process_index == 0:
            self._part = self._thread.submit(self._store_part, self._saved)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave nothing on its way."""
        self._finish_part()
        self._finish_commit()
        _barrier()

    def drain(self) -> None:
        """Let this node's upload end although training failed; raises nothing."""
        if self._part is not None and not self._has_several_nodes:
            with contextlib.suppress(Exception):
                self._part.result(timeout=DRAIN_SECONDS)

    def _finish_part(self) -> None:
        """Wait for the parts of the checkpoint on its way; all ranks must call it alike.

        Raises:
            TrainerError: A part could not be stored, on whichever node.
        """
        saved, part = self._saved, self._part
        self._saved, self._part = None, None
        if saved is None:
            return
        if not self._has_several_nodes:
            if part is not None:
                part.result()
            return
        parts = _gather(_outcome_of(part))
        for outcome in parts:
            if isinstance(outcome, TrainerError):
                raise outcome
        if self._is_first:
            files = [file for entries in parts if isinstance(entries, list) for file in entries]
            self._commit = self._thread.submit(self._commit_files, saved, files)

    def _finish_commit(self) -> None:
        commit, self._commit = self._commit, None
        if commit is not None:
            commit.result()

    def _store_part(self, saved: Saved) -> list[ManifestFile]:
        """Store this node's files; on the only node also commit. Runs in the thread."""
        files = upload_checkpoint(self._store, self._key(saved), saved.folder)
        if not self._has_several_nodes:
            self._commit_files(saved, files)
        _remove_up_to(saved)
        return files

    def _commit_files(self, saved: Saved, files: list[ManifestFile]) -> None:
        """Commit a checkpoint whose files are all stored, then drop old ones."""
        # The curve goes first: whoever resumes from the manifest needs the points before it.
        if saved.curve is not None:
            self._store.upload_file(saved.curve, self._curve_key)
            saved.curve.unlink()
        key = self._key(saved)
        commit_checkpoint(self._store, key, files, step=saved.step, inputs=self._inputs)
        drop_old(self._store, self._prefix, newest=saved.step, keep=self._keep)

    def _copy_curve(self, args: TrainingArguments, state: TrainerState) -> Path | None:
        if not (state.is_world_process_zero and self._curve.exists()):
            return None
        # Training goes on writing to the curve while the copy is stored.
        copy = Path(args.output_dir) / f"curve-{state.global_step}.jsonl"
        shutil.copyfile(self._curve, copy)
        return copy

    def _key(self, saved: Saved) -> str:
        return f"{self._prefix}/step-{saved.step}"


def _remove_up_to(saved: Saved) -> None:
    """Remove local checkpoints that are durable: this one, and the one the run resumed from."""
    for folder in saved.folder.parent.glob("checkpoint-*"):
        step = folder.name.removeprefix("checkpoint-")
        if step.isdecimal() and int(step) <= saved.step:
            shutil.rmtree(folder)


def _outcome_of(part: Future[list[ManifestFile]] | None) -> _Part:
    """Wait for a node's part; its failure is a value, so that all ranks hear of it."""
    if part is None:
        return []
    try:
        return part.result()
    except TrainerError as error:
        return error


def _barrier() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def _gather(part: _Part) -> list[_Part]:
    if not (dist.is_available() and dist.is_initialized()):
        return [part]
    parts: list[_Part | None] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return [part for part in parts if part is not None]
