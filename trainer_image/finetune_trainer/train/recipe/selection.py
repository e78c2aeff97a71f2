"""Which step's weights are published, and when training ends early. Pure.

Only the history of validation losses decides. Every checkpoint carries it, so a resumed run and all
ranks decide alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.spec.hyperparameters import EarlyStopping
from finetune_api.v1alpha1.status.progress import (
    MAX_VALIDATION_POINTS,
    ValidationPoint,
    ValidationStatus,
)

VALIDATION_LOSS = "eval_loss"
VALIDATION_ERROR = "eval_loss_error"
VALIDATIONS_PER_RUN = 6
CURVE_POINTS = 150


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """One measurement: the loss over the measured rows after ``step`` optimiser steps.

    ``error`` is the standard error of the loss, if known.
    """

    step: int
    loss: float
    error: float | None = None


def decide_validation_interval(asked: int | str, *, total_steps: int, every_steps: int) -> int:
    """Return the steps between two validations.

    ``asked`` is ``checkpoint.validateEverySteps``; ``every_steps`` lie between two checkpoints.
    """
    if isinstance(asked, int):
        return asked
    interval = math.ceil(total_steps / VALIDATIONS_PER_RUN)
    if interval <= every_steps:
        return interval
    return -(-interval // every_steps) * every_steps


def read_validations(history: Iterable[Mapping[str, Any]]) -> list[Validation]:
    """Read the measurements from transformers' ``TrainerState.log_history``, in its order."""
    return [
        Validation(
            step=int(entry["step"]),
            loss=float(entry[VALIDATION_LOSS]),
            error=entry.get(VALIDATION_ERROR),
        )
        for entry in history
        if VALIDATION_LOSS in entry
    ]


def find_best(validations: Sequence[Validation]) -> Validation | None:
    """Return the earliest of the lowest finite losses, or None."""
    finite = [point for point in validations if math.isfinite(point.loss)]
    return min(finite, key=lambda point: point.loss, default=None)


def is_exhausted(validations: Sequence[Validation], rule: EarlyStopping | None) -> bool:
    """Return whether ``patience`` validations in a row have brought no improvement."""
    if rule is None:
        return False
    best, waited = math.inf, 0
    for point in validations:
        if point.loss < best - float(rule.min_delta):
            best, waited = point.loss, 0
        else:
            waited += 1
        if waited >= rule.patience:
            return True
    return False


def thin(validations: Sequence[Validation], limit: int) -> list[Validation]:
    """Return at most ``limit`` (at least 3) measurements, the best and the last among them.

    Every second, fourth, eighth and so on is kept, so that an omitted point stays omitted.
    """
    count = len(validations)
    stride = 1
    while count > limit and -(-count // stride) > limit - 2:
        stride *= 2
    best = find_best(validations)
    return [
        point
        for index, point in enumerate(validations)
        if index % stride == 0 or index == count - 1 or point == best
    ]


def validation_status(validations: Sequence[Validation]) -> ValidationStatus | None:
    """Return the validation losses of the job's status; None before a measurement.

    A loss that is no number is left out, except the last: a sweep stops such a job.
    """
    finite = [point for point in validations if math.isfinite(point.loss)]
    lost = [point for point in validations[-1:] if not math.isfinite(point.loss)]
    if not (finite or lost):
        return None
    best = find_best(finite)
    curve = [
        ValidationPoint(step=point.step, loss=f"{point.loss:.6g}")
        for point in [*thin(finite, MAX_VALIDATION_POINTS - len(lost)), *lost]
    ]
    if best is None:
        return ValidationStatus(curve=curve)
    return ValidationStatus(best_step=best.step, best_loss=f"{best.loss:.6g}", curve=curve)


def draw_curve(history: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Return the losses over the steps: ``train`` and ``validation``, pairs of step and loss.

    Training losses are averaged to at most :data:`CURVE_POINTS` points; those that are not finite
    are left out.
    """
    logged = [
        (int(e["step"]), float(e["loss"]))
        for e in history
        if "loss" in e and math.isfinite(e["loss"])
    ]
    width = max(1, math.ceil(len(logged) / CURVE_POINTS))
    groups = [logged[i : i + width] for i in range(0, len(logged), width)]
    return {
        "train": [
            [group[-1][0], round(sum(loss for _, loss in group) / len(group), 6)]
            for group in groups
        ],
        "validation": [[v.step, round(v.loss, 6)] for v in read_validations(history)],
    }


def find_superseded(stored: Iterable[int], checkpoints: Sequence[int]) -> list[int]:
    """Return the steps whose stored weights no run can choose any more.

    A run that resumes at a checkpoint needs the newest weights stored up to it.

    Args:
        stored: Steps with stored weights.
        checkpoints: Steps a run may resume at.
    """
    steps = sorted(stored)
    if not checkpoints:
        return []
    needed = {
        max((step for step in steps if step <= checkpoint), default=-1)
        for checkpoint in checkpoints
    }
    newest = max(checkpoints)
    return [step for step in steps if step <= newest and step not in needed]
