"""Stores every checkpoint that Trainer saves, behind training.

One rank of each node stores the node's files through its outbox. Checkpoints wait on the local disk
within the outbox's budget; training waits only when there is no room, and at its end. Threads never
take part in collectives. With several nodes the ranks poll after every step until all parts of the
oldest checkpoint are stored; then rank 0's outbox commits. No rank sits in a collective during an
outage. A failure surfaces at the next step, on every node.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.storage import ManifestFile, ObjectStore
from finetune_trainer.storage.patience import no_wait
from finetune_trainer.storage.store import OnBytes
from finetune_trainer.train.checkpoint import (
    commit_checkpoint,
    drop_newer,
    drop_old,
    upload_checkpoint,
)
from finetune_trainer.train.parent.outbox import Outbox, size_of
from finetune_trainer.train.ranks.whole import count_trainable

DRAIN_SECONDS = 60.0
"""How long a rank that failed waits for its checkpoints on the way."""

POLL_SECONDS = 2.0
"""How often ranks that wait for storage ask each other."""

STALL_REPORTED_SECONDS = 1.0

SAVE_SHARE = 0.05
"""Largest share of the time in which training stands still for saves, if nobody has set a number of
steps. A save of all weights of an 8B model takes a minute or two, and 50 steps take as long.
"""
MOST_SECONDS = 3600.0
"""After so long since the last save, the next one waits no longer."""

CHECKPOINT_BYTES = 12
"""Bytes of a checkpoint by trained weight until one was saved: float32, two states of AdamW."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A checkpoint on the local disk that is being stored.

    Attributes:
        step: Its optimiser step.
        folder: Where Trainer has saved it.
        curve: Copy of the training curve at that step; rank 0 only.
        part: The entries of this node's stored files; None on ranks that store none.
    """

    step: int
    folder: Path
    curve: Path | None
    part: Future[list[ManifestFile]] | None = None


class DurableCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Stores Trainer's checkpoints on all nodes, and commits each with a manifest.

    Args:
        store: The run's storage.
        prefix: Key prefix of the run's checkpoints.
        outbox: Stores files there.
        keep: Complete checkpoints to keep.
        curve: Local training curve.
        curve_key: Its key.
        inputs: Inputs of the checkpoints, for their manifests.
        resumed_from: Step that training resumes at, 0 for none.
        tell: Called with a message for people.
        save_seconds: Returns for how long training stood still for the last save. A save waits
            until that is a small share of the time; None for a user's own number of steps.
        on_wait: Called every few seconds while training waits for storage.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        *,
        outbox: Outbox,
        keep: int,
        curve: Path,
        curve_key: str,
        inputs: Mapping[str, str],
        resumed_from: int,
        tell: Callable[[str], None],
        save_seconds: Callable[[], float] | None = None,
        on_wait: Callable[[], None] = no_wait,
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._outbox = outbox
        self._keep = keep
        self._curve = curve
        self._curve_key = curve_key
        self._inputs = inputs
        self._resumed_from = resumed_from
        self._tell = tell
        self._save_seconds = save_seconds
        self._on_wait = on_wait
        self._saved_at = time.monotonic()
        self._has_told = False
        self._saved: deque[Saved] = deque()
        self._num_bytes = 0
        self._is_first = False
        self._has_several_nodes = False
        self.stall_seconds = 0.0
        self.store_seconds = 0.0

    def attach(self, trainer: Trainer) -> None:
        """Make room on the disk before each checkpoint of the trainer."""
        save = trainer._save_checkpoint
        if trainer.args.local_process_index == 0:
            self._num_bytes = CHECKPOINT_BYTES * count_trainable(trainer.model)

        def save_with_room(*arguments: Any, **options: Any) -> None:
            self.make_room(trainer.args, trainer.state, self._num_bytes)
            save(*arguments, **options)

        trainer._save_checkpoint = save_with_room

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Delete damaged or unfinished checkpoints beyond the resumed step."""
        num_local = int(os.environ.get("LOCAL_WORLD_SIZE") or args.world_size)
        self._has_several_nodes = args.world_size > num_local
        self._is_first = state.is_world_process_zero
        if self._is_first:
            drop_newer(self._store, self._prefix, than=self._resumed_from)
            # An earlier attempt may have died between a commit and its clean-up.
            drop_old(self._store, self._prefix, newest=self._resumed_from, keep=self._keep)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Put off a dear save; raise failures of earlier ones, and commit what is stored."""
        if control.should_save and not control.should_training_stop and self._is_too_soon(args):
            control.should_save = False
        self._outbox.report()
        if self._has_several_nodes and self._saved:
            self._finish_stored(args)
        elif self._outbox.failure is not None:
            raise self._outbox.failure
        elif not self._has_several_nodes:
            self._finish_stored(args)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Queue the checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        _barrier()  # every rank has written its files
        self._num_bytes = num_bytes = size_of(folder) if args.local_process_index == 0 else 0
        self._finish_stored(args)
        saved = Saved(step=state.global_step, folder=folder, curve=self._copy_curve(args, state))
        part = None
        if args.local_process_index == 0:
            part = self._outbox.submit(
                f"checkpoint of step {saved.step}",
                num_bytes,
                lambda store, on_bytes: self._store_part(store, saved, on_bytes),
            )
        self._saved.append(Saved(step=saved.step, folder=folder, curve=saved.curve, part=part))
        self._saved_at = time.monotonic()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave nothing on its way."""
        self._wait_until(args, state, self._outbox.is_idle)
        self._finish_stored(args)
        self._wait_until(args, state, self._outbox.is_idle)  # for the commits
        _barrier()

    def make_room(self, args: TrainingArguments, state: TrainerState, num_bytes: int) -> None:
        """Wait until the outbox has room for this rank's next parcel; all ranks call it alike.

        Must be called before its files are written. The checkpoint that the run resumed from goes
        first: every rank has read it.

        Raises:
            TrainerError: Storage stayed away beyond its patience, or failed for good.
        """
        if args.local_process_index == 0:
            resumed = Path(args.output_dir) / f"checkpoint-{self._resumed_from}"
            shutil.rmtree(resumed, ignore_errors=True)
        self._wait_until(args, state, lambda: self._outbox.has_room(num_bytes))

    def _is_too_soon(self, args: TrainingArguments) -> bool:
        """Tell whether a save would cost more than its share, by rank 0's clock."""
        if self._save_seconds is None:
            return False
        cost = self._save_seconds()
        wait = min(cost / SAVE_SHARE, MOST_SECONDS)
        (is_soon,) = _any(args, self._is_first and time.monotonic() - self._saved_at < wait)
        if is_soon and not self._has_told:
            self._has_told = True
            self._tell(
                f"a checkpoint takes {cost:.0f} s, so two are at least {wait:.0f} s apart"
                f" ({SAVE_SHARE:.0%} of the time); set checkpoint.everySteps to save by steps alone"
            )
        return is_soon

    def drain(self) -> None:
        """Store this node's checkpoints although training failed; raises nothing."""
        end = time.monotonic() + DRAIN_SECONDS
        while (
            not self._has_several_nodes
            and not self._outbox.is_idle()
            and self._outbox.failure is None
            and (left := end - time.monotonic()) > 0
        ):
            self._outbox.wait(left)

    def _wait_until(
        self, args: TrainingArguments, state: TrainerState, is_ready: Callable[[], bool]
    ) -> None:
        """Wait until this holds for all ranks; all must call it alike."""
        began = time.monotonic()
        waits_for = self._outbox.describe()
        told = False
        while True:
            failed = self._outbox.failure is not None
            hopeless = not failed and self._outbox.is_hopeless(since=began)
            is_busy, has_failed, is_hopeless = _any(args, not is_ready(), failed, hopeless)
            if has_failed:
                self._raise_failure(args, lost=self._outbox.describe())
            if is_hopeless:
                self._outbox.give_up()
            elif not is_busy:
                break
            self._on_wait()
            self._outbox.report()
            waited = time.monotonic() - began
            if waits_for and not told and waited > 10 * STALL_REPORTED_SECONDS:
                told = True
                self._tell(f"training waits at step {state.global_step} for storage: {waits_for}")
            self._outbox.wait(POLL_SECONDS)
        waited = time.monotonic() - began
        self.stall_seconds += waited
        if waits_for and waited > STALL_REPORTED_SECONDS:
            self._tell(
                f"training waited {waited:.1f} s at step {state.global_step} for storage to take "
                f"{waits_for}; raise checkpoint.everySteps or use faster storage if this repeats"
            )

    def _raise_failure(self, args: TrainingArguments, *, lost: str = "") -> None:
        """Raise a storage failure of any node on every rank; all must call it alike."""
        error = next(error for error in _gather(args, self._outbox.failure) if error is not None)
        if lost:
            error.message += (
                f" Not stored, and lost with this pod: {lost}. The next attempt resumes at the "
                "newest checkpoint that is stored."
            )
        raise error

    def _finish_stored(self, args: TrainingArguments) -> None:
        """Remove checkpoints whose parts are all stored, oldest first.

        With several nodes all ranks must call it alike.

        Raises:
            TrainerError: A part could not be stored, on any node.
        """
        while self._saved:
            part = self._saved[0].part
            is_pending = part is not None and not part.done()
            failed = self._outbox.failure is not None
            if self._has_several_nodes:
                is_pending, failed = _any(args, is_pending, failed)
                if failed:
                    self._raise_failure(args)
            if is_pending or failed:
                return
            saved = self._saved.popleft()
            if self._has_several_nodes:
                self._commit_parts(args, saved)

    def _commit_parts(self, args: TrainingArguments, saved: Saved) -> None:
        """Give the entries of all nodes to rank 0, which commits them."""
        parts = _gather(args, saved.part.result() if saved.part is not None else [])
        if self._is_first:
            files = [file for entries in parts for file in entries]
            self._outbox.submit(
                f"manifest of step {saved.step}",
                0,
                lambda store, _: self._commit_files(store, saved, files),
                urgent=True,
            )

    def _store_part(
        self, store: ObjectStore, saved: Saved, on_bytes: OnBytes
    ) -> list[ManifestFile]:
        """Store this node's files; on the only node also commit. Runs in the outbox."""
        began = time.monotonic()
        files = upload_checkpoint(store, self._key(saved), saved.folder, on_bytes=on_bytes)
        if not self._has_several_nodes:
            self._commit_files(store, saved, files)
        _remove_up_to(saved)
        self.store_seconds = time.monotonic() - began
        return files

    def _commit_files(self, store: ObjectStore, saved: Saved, files: list[ManifestFile]) -> None:
        # The curve goes first: a resumed run needs the points before the manifest.
        if saved.curve is not None:
            store.upload_file(saved.curve, self._curve_key)
            saved.curve.unlink()
        key = self._key(saved)
        commit_checkpoint(store, key, files, step=saved.step, inputs=self._inputs)
        drop_old(store, self._prefix, newest=saved.step, keep=self._keep)

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


def _is_alone(args: TrainingArguments) -> bool:
    return args.world_size == 1 or not (dist.is_available() and dist.is_initialized())


def _any(args: TrainingArguments, *values: bool) -> tuple[bool, ...]:
    """Return for each value whether it holds for any rank; all must call it alike."""
    if _is_alone(args):
        return values
    votes = torch.tensor([int(value) for value in values], device=args.device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return tuple(bool(vote) for vote in votes.tolist())


def _barrier() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def _gather(args: TrainingArguments, value: Any) -> list[Any]:
    """Return every rank's value, rank 0's first."""
    if _is_alone(args):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
