"""Stores the weights of the best step, ends training early, hands over the chosen weights."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.v1alpha1.spec.hyperparameters import Checkpoint
from finetune_trainer.planning.setup import FLOAT32
from finetune_trainer.storage import ObjectStore, fetch_folder, publish_folder
from finetune_trainer.storage.store import OnBytes
from finetune_trainer.train.checkpoint import complete_steps, delete_prefix
from finetune_trainer.train.parent.outbox import Outbox, size_of
from finetune_trainer.train.ranks.whole import count_trainable
from finetune_trainer.train.recipe.selection import (
    find_best,
    find_superseded,
    is_exhausted,
    read_validations,
)

_STORED = re.compile(r"^best-(\d+)/")


class TrainingIsOver(Exception):  # noqa: N818 - no error: there is nothing left to train
    """The checkpoint that the run resumes from is its last one."""


class ChosenStep(TrainerCallback):  # type: ignore[misc]
    """Stores weights at every new lowest validation loss; chooses the published weights.

    The weights are in ``best-<step>`` beside the checkpoints. They are stored before a checkpoint
    that needs them, and stay as long as a run may resume there.

    Args:
        store: The run's storage.
        prefix: Key prefix of the run's checkpoints.
        outbox: Stores files in order with the checkpoints.
        make_room: Waits until the outbox takes so many bytes; all ranks call it alike.
        rule: ``spec.checkpoint``.
        has_validation: There are validation rows.
        inputs: Inputs of the weights, for their manifests.
        resume_step: Step of the checkpoint that training resumes at, 0 for none.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        *,
        outbox: Outbox,
        make_room: Callable[[TrainingArguments, TrainerState, int], None],
        rule: Checkpoint,
        has_validation: bool,
        inputs: Mapping[str, str],
        resume_step: int,
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._outbox = outbox
        self._evict = make_room
        self._rule = rule
        self._keeps_best = has_validation and rule.select == "Best"
        self._inputs = inputs
        self._resume_step = resume_step
        self._trainer: Trainer | None = None

    def attach(self, trainer: Trainer) -> None:
        """Set the trainer whose weights are stored."""
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Forget what a lost attempt stored after the checkpoint.

        Raises:
            TrainingIsOver: All steps are done; transformers would train one more.
        """
        if state.is_world_process_zero:
            for step in self._stored_steps(self._store):
                if step > self._resume_step:
                    delete_prefix(self._store, self._key(step))
        is_exhausted_now = is_exhausted(
            read_validations(state.log_history), self._rule.early_stopping
        )
        if self._resume_step and (state.global_step >= state.max_steps or is_exhausted_now):
            raise TrainingIsOver

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Store the weights if they are the best so far; stop when patience is at its end."""
        validations = read_validations(state.log_history)
        best = find_best(validations)
        if self._keeps_best and best is not None and best.step == state.global_step:
            self._store_weights(args, state)
        if is_exhausted(validations, self._rule.early_stopping):
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Drop weights that no checkpoint counts on any more."""
        if self._keeps_best and state.is_world_process_zero:
            self._outbox.submit("clean-up of weights", 0, lambda store, _: self._drop_old(store))

    def hand_over(self, folder: Path) -> dict[str, Any]:
        """Put the chosen weights into ``folder``; all ranks must call it.

        Returns:
            ``step``, ``validation_loss``, its ``validation_error`` (standard error),
                ``last_step``, ``last_validation_loss`` and ``planned_steps``; what was not
                measured is None.
        """
        assert self._trainer is not None
        state = self._trainer.state
        validations = read_validations(state.log_history)
        last = next((v for v in validations if v.step == state.global_step), None)
        best = find_best(validations) if self._keeps_best else None
        if best is None:
            self._trainer.save_model(str(folder))
        elif state.is_world_process_zero:
            fetch_folder(self._store, self._key(best.step), folder)
        chosen = best or last
        return {
            "step": best.step if best else state.global_step,
            "validation_loss": chosen.loss if chosen else None,
            "validation_error": chosen.error if chosen else None,
            "last_step": state.global_step,
            "last_validation_loss": last.loss if last else None,
            "planned_steps": state.max_steps,
        }

    def _store_weights(self, args: TrainingArguments, state: TrainerState) -> None:
        assert self._trainer is not None
        step, folder = state.global_step, Path(args.output_dir) / f"best-{state.global_step}"
        is_first = state.is_world_process_zero
        num_bytes = FLOAT32 * count_trainable(self._trainer.model)
        self._evict(args, state, num_bytes if is_first else 0)
        self._trainer.save_model(str(folder))
        if is_first:
            # A pickle can run code when it is loaded.
            (folder / "training_args.bin").unlink(missing_ok=True)
            self._outbox.submit(
                f"best weights of step {step}",
                size_of(folder),
                lambda store, on_bytes: self._publish(store, step, folder, on_bytes),
            )

    def _publish(self, store: ObjectStore, step: int, folder: Path, on_bytes: OnBytes) -> None:
        publish_folder(
            store,
            self._key(step),
            folder,
            created_by="finetune_trainer train",
            inputs={**self._inputs, "step": str(step)},
            on_bytes=on_bytes,
        )
        shutil.rmtree(folder)

    def _drop_old(self, store: ObjectStore) -> None:
        """Delete weights that no checkpoint counts on any more. Runs in the outbox."""
        checkpoints = complete_steps(store, self._prefix)
        for step in find_superseded(self._stored_steps(store), checkpoints):
            delete_prefix(store, self._key(step))

    def _stored_steps(self, store: ObjectStore) -> list[int]:
        start = self._prefix + "/"
        matches = (_STORED.match(item.key.removeprefix(start)) for item in store.list(start))
        return sorted({int(match.group(1)) for match in matches if match})

    def _key(self, step: int) -> str:
        return f"{self._prefix}/best-{step}"
