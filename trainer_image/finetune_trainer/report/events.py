"""JSON lines on stdout: what a person, the CLI or a log collector reads while a stage runs."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Mapping
from typing import Any, TextIO

from finetune_api.protocol.termination import StageResult
from finetune_api.protocol.trainer import Event, Stage
from finetune_api.v1alpha1.status.plan import PlanStatus
from finetune_api.v1alpha1.status.progress import ValidationStatus
from finetune_trainer.report.push import ProgressPush


class EventEmitter:
    """Writes one stage's events; safe to call from several threads."""

    def __init__(
        self, stage: Stage, *, stream: TextIO | None = None, push: ProgressPush | None = None
    ) -> None:
        self.stage = stage
        self._stream = stream or sys.stdout
        self._push = push
        self._lock = threading.Lock()

    def message(self, text: str) -> None:
        """Tell something that happened, for people."""
        self._write(Event(event="message", stage=self.stage, message=text))

    def plan(self, plan: PlanStatus) -> None:
        """Have the operator know what training runs; people read it in the messages."""
        if self._push is not None:
            self._push.set_plan(plan.to_wire())

    def validation(self, validation: ValidationStatus) -> None:
        """Have the operator know how the validation loss has come along."""
        if self._push is not None:
            self._push.set_validation(validation.to_wire())

    def progress(
        self,
        *,
        step: int | None = None,
        total_steps: int | None = None,
        epoch: float | None = None,
        eta_seconds: float | None = None,
        metrics: Mapping[str, float] | None = None,
        message: str = "",
        unit: str = "",
    ) -> None:
        """Emit the progress of the stage, and push it to the operator if there is one.

        ``unit`` names what the steps count, in the plural; empty for optimiser steps.
        """
        percent = None
        if step is not None and total_steps:
            percent = min(100, int(100 * step / total_steps))
        event = Event(
            event="progress",
            stage=self.stage,
            message=message,
            step=step,
            total_steps=total_steps,
            unit=unit,
            epoch=epoch,
            percent=percent,
            eta_seconds=None if eta_seconds is None else max(0, int(eta_seconds)),
            metrics={k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)},
        )
        self._write(event)
        if self._push is not None:
            self._push.update(event)

    def result(self, result: StageResult) -> None:
        """Tell the stage's result."""
        wire = result.to_wire()
        self._write(Event(event="result", stage=self.stage, result=wire))
        if self._push is not None:
            self._push.finish(is_done=True)

    def failure(self, *, reason: str, message: str, exit_code: int, step: int | None) -> None:
        """Tell why the stage ends without a result."""
        self._write(
            Event(
                event="failure",
                stage=self.stage,
                reason=reason,
                message=message,
                exit_code=exit_code,
                step=step,
            )
        )
        if self._push is not None:
            self._push.finish(is_done=False)

    def close(self) -> None:
        """Send what is still pending; for a rank that leaves the result to its parent."""
        if self._push is not None:
            self._push.finish(is_done=False)

    def _write(self, event: Event) -> None:
        wire: dict[str, Any] = event.to_wire()
        if not wire.get("metrics"):
            wire.pop("metrics", None)
        line = json.dumps({k: v for k, v in wire.items() if v != ""}) + "\n"
        with self._lock:
            self._stream.write(line)
            self._stream.flush()
