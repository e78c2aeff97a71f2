"""Callbacks that measure a rank: its signs of life, and how long it takes to save."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.train.parent.beats import BeatWriter, Phase


class Heartbeat(TrainerCallback):  # type: ignore[misc]
    """Gives a sign of life wherever training gets on; the parent watches for them."""

    def __init__(self, beats: BeatWriter) -> None:
        self._beats = beats
        self._phase = Phase.STARTING

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The batches of the next step are here."""
        self._beats.beat(self._phase)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A micro batch is done."""
        self._beats.beat(self._phase)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A step is done; the next phase is its save."""
        self._phase = Phase.TRAINING
        stores = control.should_save or control.should_training_stop
        self._beats.step_ended(state.global_step, Phase.SAVING if stores else Phase.TRAINING)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A batch is validated."""
        self._beats.beat(self._phase)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Validation is done; weights of the best step may be stored now."""
        self._beats.beat(Phase.SAVING)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A checkpoint is on the disk; its predecessor may still wait for storage."""
        self._beats.beat(Phase.SAVING)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Only storing remains."""
        self._beats.beat(Phase.SAVING)


class SaveClock(TrainerCallback):  # type: ignore[misc]
    """Measures the duration of a save; warns if the grace period is shorter.

    Args:
        grace_seconds: From SIGTERM to SIGKILL; None if unknown.
        store_seconds: Returns how long the last checkpoint took to store.
        stall_seconds: Returns how long training has waited for storage, which is no part of a save.
        tell: Called with a message for people.
    """

    def __init__(
        self,
        *,
        grace_seconds: float | None,
        store_seconds: Callable[[], float],
        stall_seconds: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        self._grace_seconds = grace_seconds
        self._store_seconds = store_seconds
        self._stall_seconds = stall_seconds
        self._stalled = 0.0
        self._tell = tell
        self._mark = time.monotonic()
        self._began = self._mark
        self._has_told = False
        self.step_seconds = 0.0
        self.validation_seconds = 0.0
        self.local_seconds = 0.0

    @property
    def save_seconds(self) -> float:
        """Duration of the last save and its storage; 0 before the first."""
        return self.local_seconds + self._store_seconds()

    def expect(self, *, validates: bool) -> float:
        """Return the seconds that a save now is expected to take, 0 if nothing is known."""
        return self.save_seconds + (self.validation_seconds if validates else 0.0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock of a step."""
        self._began = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock of a step's save; compare the last save with the grace period."""
        self._mark, self._stalled = time.monotonic(), self._stall_seconds()
        self.step_seconds = self._mark - self._began
        needed = self.save_seconds + self.step_seconds
        grace = self._grace_seconds
        if grace is None or self._has_told or not self._store_seconds() or needed <= grace:
            return
        self._has_told = True
        self._tell(
            f"a stop would come too late to save: step and checkpoint took {needed:.0f} s, and the "
            f"pod has {grace:.0f} s between SIGTERM and SIGKILL; raise "
            f"podTemplate.terminationGracePeriodSeconds to {2 * needed:.0f} or more, or each "
            "preemption loses the steps since the checkpoint before"
        )

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take the time of a validation."""
        now = time.monotonic()
        self.validation_seconds, self._mark = now - self._mark, now

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take the time that the disk took."""
        now, stalled = time.monotonic(), self._stall_seconds() - self._stalled
        self.local_seconds, self._mark = now - self._mark - stalled, now
