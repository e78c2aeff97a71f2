"""Compares runs: all content of the table and the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_api.protocol.evaluation_result import Score
from finetune_api.protocol.stage_results import ValidationScore
from finetune_api.v1alpha1.evaluation.scoring import LOWER_IS_BETTER
from finetune_trainer.experiments.differences import (
    Difference,
    choose_pairs,
    find_differences,
)
from finetune_trainer.experiments.recipe import Parameter, find_parameters
from finetune_trainer.experiments.run import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Runs and their differences.

    Attributes:
        runs: The runs, in the order they were asked for.
        parameters: Settings that are not the same in all of them.
        differences: Which scores differ, and whether that is real.
        certainty: Of all real differences together.
    """

    runs: Sequence[Run]
    parameters: Sequence[Parameter]
    differences: Sequence[Difference]
    certainty: float

    @property
    def has_same_data(self) -> bool:
        """Whether all runs have the same version of the data."""
        digests = {run.data.digest for run in self.runs}
        return len(digests) == 1 and "" not in digests

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, in the order of the first run that has them."""
        return list(dict.fromkeys(score.name for run in self.runs for score in run.scores))


ON_VALIDATION = " on validation rows"
"""Suffix of a metric's name that is not of held-out rows."""


def compare_runs(runs: Sequence[Run], *, against: int | None = None) -> Comparison:
    """Compare runs, at least one.

    ``against`` is the position of the reference run. By default all pairs of few runs are compared,
    else all with the best on validation rows.
    """
    certainty = max(run.certainty for run in runs)
    parameters = find_parameters([run.recipe for run in runs])
    pairs = choose_pairs(len(runs), against=against, best=best_run(runs))
    return Comparison(
        runs=runs,
        parameters=parameters,
        differences=[
            *find_differences(runs, pairs, certainty=certainty),
            *_differences_on_validation(runs, pairs, certainty=certainty),
        ],
        certainty=certainty,
    )


def best_run(runs: Sequence[Run]) -> int:
    """Return the position of the run that is best on validation rows, else the first.

    A common score decides, then the loss.
    """
    losses = comparable_losses(runs)
    known = [place for place, loss in enumerate(losses) if loss is not None]
    metrics = {told.metric for run in runs if (told := run.validation_score) and told.value}

    def order(place: int) -> tuple[float, float]:
        told = runs[place].validation_score
        if len(metrics) != 1 or told is None or not told.value:
            return (math.inf, losses[place] or 0.0)
        value = float(told.value)
        return (value if told.metric in LOWER_IS_BETTER else -value, losses[place] or 0.0)

    return min(known, key=order, default=0)


def _differences_on_validation(
    runs: Sequence[Run], pairs: Sequence[tuple[int, int]], *, certainty: float
) -> list[Difference]:
    """Compare the answers to validation rows, as those to held-out rows are compared."""
    shown = [
        replace(run, scores=_as_scores(run.validation_score), rows=run.validation_rows)
        for run in runs
    ]
    return [
        replace(each, metric=f"{each.metric}{ON_VALIDATION}")
        for each in find_differences(shown, pairs, certainty=certainty)
    ]


def _as_scores(told: ValidationScore | None) -> list[Score]:
    if told is None or not told.value:
        return []
    return [Score(name=told.metric, base=told.value, tuned=told.value)]


def comparable_losses(runs: Sequence[Run]) -> list[float | None]:
    """Return validation losses; all None where they are of different or unknown rows."""
    digests = known_digests(runs)
    if len(digests) > 1:
        return [None] * len(runs)
    return [run.validation_loss if run.data.digest in digests else None for run in runs]


def known_digests(runs: Sequence[Run]) -> set[str]:
    """Return the known versions of the runs' data."""
    return {run.data.digest for run in runs if run.data.digest}


def to_wire(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison for machines, in camelCase, without unknown values."""
    runs = comparison.runs
    return {
        "certainty": comparison.certainty,
        "sameData": comparison.has_same_data,
        "runs": [_run_to_wire(run) for run in runs],
        "parameters": [
            {
                "path": each.path,
                "values": {run.name: v for run, v in zip(runs, each.values, strict=True)},
            }
            for each in comparison.parameters
        ],
        "differences": [_difference_to_wire(each, runs) for each in comparison.differences],
    }


def _run_to_wire(run: Run) -> dict[str, Any]:
    effort = run.effort
    fields = {
        "name": run.name,
        "place": run.place,
        "state": run.state,
        "recipe": dict(run.recipe),
        "dataset": {
            "digest": run.data.digest,
            "rows": {
                "train": run.data.train,
                "validation": run.data.validation,
                "test": run.data.test,
            },
            "tokens": run.data.num_tokens,
        },
        "scores": [score.to_wire() for score in run.scores],
        "numSamples": run.num_samples or None,
        "validationLoss": run.validation_loss,
        "validationScore": run.validation_score.to_wire() if run.validation_score else None,
        "step": run.step,
        "lastStep": run.last_step,
        "plannedSteps": run.planned_steps,
        "validation": [list(point) for point in run.validation],
        "training": [list(point) for point in run.train],
        "tokens": effort.tokens,
        "seconds": None if effort.seconds is None else round(effort.seconds, 1),
        "isTrainingOnly": effort.is_training_only if effort.seconds is not None else None,
        "gpuHours": None if effort.gpu_hours is None else round(effort.gpu_hours, 4),
        "cost": None if effort.cost is None else round(effort.cost, 4),
        "version": run.version,
        "notes": list(run.notes),
    }
    return {key: value for key, value in fields.items() if value is not None}


def _difference_to_wire(each: Difference, runs: Sequence[Run]) -> dict[str, Any]:
    fields = {
        "metric": each.metric,
        "first": runs[each.first].name,
        "second": runs[each.second].name,
        "verdict": each.verdict,
        "better": None if each.better is None else runs[each.better].name,
        "isPaired": each.is_paired if each.gain is not None else None,
        "rows": each.num_rows or None,
        "doubt": None if each.doubt is None else round(each.doubt, 6),
        "why": each.why or None,
    }
    if each.gain is not None:
        bounds = {"gain": each.gain.value, "low": each.gain.low, "high": each.gain.high}
        # One cluster alone has no bounds, and JSON no infinite number.
        fields |= {key: round(bound, 4) for key, bound in bounds.items() if math.isfinite(bound)}
    return {key: value for key, value in fields.items() if value is not None}
