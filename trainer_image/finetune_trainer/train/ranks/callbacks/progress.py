"""Callbacks that turn transformers' Trainer into a stage: progress and stopping."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.errors import Stopped
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.train.recipe.selection import (
    VALIDATION_LOSS,
    Validation,
    read_validations,
    validation_status,
)

REPORTED = (
    "loss",
    "learning_rate",
    "grad_norm",
    "eval_loss",
    "num_tokens",
    "mean_token_accuracy",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "eval_rewards/margins",
    "eval_rewards/accuracies",
)
_KEPT = ("eval_loss", "num_tokens")
"""The kept state of earlier attempts; the rest is measured again."""
MIN_EVENT_SECONDS = 1.0


class CurveWriter(TrainerCallback):  # type: ignore[misc]
    """Writes every logged point to ``metrics.jsonl`` and reports progress; rank 0 only."""

    def __init__(self, path: Path, emit: EventEmitter, *, resumed_from: int) -> None:
        self._path = path
        self._emit = emit
        self._resumed_from = resumed_from
        self._latest: dict[str, float] = {}
        self._last_event = 0.0
        self._mark: tuple[float, float] | None = None
        self._started = 0.0
        self._validations: list[Validation] = []
        _drop_points_after(path, resumed_from)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._validations = read_validations(state.log_history)
        for entry in state.log_history:
            self._latest.update({k: float(entry[k]) for k in _KEPT if k in entry})
        if state.is_world_process_zero:
            self._emit_validations()
            self._emit.progress(step=state.global_step, total_steps=state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Append the point and emit progress, at most once a second."""
        if not state.is_world_process_zero or logs is None:
            return
        now = time.monotonic()
        point = {k: v for k, v in logs.items() if isinstance(v, int | float)}
        if "num_tokens" in point:
            if self._mark is not None and now > self._mark[0]:
                rate = (point["num_tokens"] - self._mark[1]) / (now - self._mark[0])
                point["tokens_per_second"] = round(rate, 1)
                self._latest["tokens_per_second"] = point["tokens_per_second"]
            self._mark = (now, point["num_tokens"])
        with self._path.open("a") as file:
            file.write(json.dumps({"step": state.global_step, **point}, sort_keys=True) + "\n")
        self._latest.update({k: float(point[k]) for k in REPORTED if k in point})
        if VALIDATION_LOSS in point:
            loss = float(point[VALIDATION_LOSS])
            self._validations.append(Validation(step=state.global_step, loss=loss))
            self._emit_validations()
        if now - self._last_event >= MIN_EVENT_SECONDS or state.global_step >= state.max_steps:
            self._last_event = now
            done = state.global_step - self._resumed_from
            left = state.max_steps - state.global_step
            self._emit.progress(
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=state.epoch,
                eta_seconds=left * (now - self._started) / done if done else None,
                metrics=self._latest,
            )

    def _emit_validations(self) -> None:
        if (told := validation_status(self._validations)) is not None:
            self._emit.validation(told)

    def note(self, name: str, value: float) -> None:
        """Add a value to the report."""
        self._latest[name] = value

    @property
    def latest(self) -> dict[str, float]:
        """Newest value of every reported metric."""
        return dict(self._latest)


class TokenCount(TrainerCallback):  # type: ignore[misc]
    """Continues the checkpoint's token count; repeated steps count once."""

    def __init__(self) -> None:
        self._trainer: Any = None

    def attach(self, trainer: Any) -> None:
        """Set the trainer whose tokens are counted."""
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take over the checkpoint's history."""
        counts = [entry["num_tokens"] for entry in state.log_history if "num_tokens" in entry]
        if counts:
            self._trainer._total_train_tokens = int(counts[-1])


class Stopping(IntEnum):
    """The stop request that a rank received; the highest of all ranks counts."""

    NO = 0
    SAVE = 1
    LEAVE = 2
    """There is no time left to save."""


class StopRequest(TrainerCallback):  # type: ignore[misc]
    """Saves and stops when the parent asks; all ranks agree on the step.

    A save that would not end before the pod is killed is not begun.

    Args:
        flag: File that the parent writes; it may hold the deadline (monotonic seconds).
        expect: Returns the expected seconds of a save, with or without a validation.
    """

    def __init__(self, flag: Path, expect: Callable[[bool], float]) -> None:
        self._flag = flag
        self._expect = expect
        self._missing: tuple[float, float] | None = None
        self.stopped_at: int | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Return on all ranks whether any rank got a stop request."""
        wanted = self._read(validates=control.should_evaluate)
        if dist.is_available() and dist.is_initialized() and args.world_size > 1:
            vote = torch.tensor([int(wanted)], device=args.device)
            dist.all_reduce(vote, op=dist.ReduceOp.MAX)
            wanted = Stopping(int(vote.item()))
        if wanted is Stopping.NO or state.global_step >= state.max_steps:
            return
        self.stopped_at = state.global_step
        control.should_training_stop = True
        control.should_save = wanted is Stopping.SAVE
        if wanted is Stopping.LEAVE:
            # The step is trained again, and validated then.
            control.should_evaluate = False
            self._missing = self._missing or (0.0, 0.0)

    def raise_if_stopped(self, *, total_steps: int) -> None:
        """Raise ``Stopped`` if training ended on request; say whether the checkpoint is durable."""
        if self.stopped_at is None:
            return
        where = f"stopped on request at step {self.stopped_at} of {total_steps}"
        if self._missing is None:
            raise Stopped(
                "StoppedAfterSave",
                f"{where}; the checkpoint is durable, the next attempt resumes there",
            )
        needed, left = self._missing
        numbers = f" takes {needed:.0f} s and {max(0.0, left):.0f} s were left" if needed else ""
        raise Stopped(
            "StoppedWithoutSave",
            f"{where} without a save, which{numbers or ' did not fit the time left'}; the next "
            "attempt resumes at the checkpoint before. Raise "
            "podTemplate.terminationGracePeriodSeconds",
        )

    def _read(self, *, validates: bool) -> Stopping:
        if not os.path.exists(self._flag):
            return Stopping.NO
        deadline = self._flag.read_text()
        if not deadline:
            return Stopping.SAVE
        needed, left = self._expect(validates), float(deadline) - time.monotonic()
        if needed <= left:
            return Stopping.SAVE
        self._missing = (needed, left)
        return Stopping.LEAVE


def _drop_points_after(path: Path, step: int) -> None:
    # Steps after the resumed checkpoint are trained, and logged, again.
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue
    path.write_text("".join(line + "\n" for line in kept))
