"""Runs side by side as a terminal shows them; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune_api.v1alpha1.evaluation.scoring import DIRECTION_UNKNOWN
from finetune_cli.views.display import duration_text, printable
from finetune_cli.views.layout import table

if TYPE_CHECKING:
    from finetune_trainer.experiments.comparison import Comparison
    from finetune_trainer.experiments.differences import Difference
    from finetune_trainer.experiments.run import Points, Run

MAX_COLUMNS_OF_RUNS = 4
"""Of more runs, each has a line and not a column."""
MAX_CELL = 40
NUM_BARS = 24
BARS = "▁▂▃▄▅▆▇█"


def describe_comparison(comparison: Comparison) -> str:
    """Write a comparison for a terminal."""
    parts = [
        _runs(comparison.runs),
        _data(comparison),
        _recipe(comparison),
        _curves(comparison.runs),
        _scores(comparison),
        _differences(comparison),
        [f"note: {run.name}: {note}" for run in comparison.runs for note in run.notes],
    ]
    return printable("\n\n".join("\n".join(part) for part in parts if part))


def _runs(runs: Sequence[Run]) -> list[str]:
    columns = ["RUN", "STATE", "VALIDATION LOSS", "STEP", "TOKENS", "TOOK", "GPU HOURS", "COST"]
    rows = [[run.name, run.state, *_facts(run)] for run in runs]
    if any(run.validation_score for run in runs):
        columns.append("ON VALIDATION ROWS")
        rows = [[*row, run.validation_text] for row, run in zip(rows, runs, strict=True)]
    lines = table(rows, tuple(columns))
    if any(run.effort.is_training_only and run.effort.seconds is not None for run in runs):
        lines.append("TOOK is the time of training alone, where a run's whole time is not stored.")
    return lines


def _facts(run: Run) -> list[str]:
    effort = run.effort
    loss = run.validation_loss
    return [
        "" if loss is None else f"{loss:.4f}",
        step_text(run),
        "" if effort.tokens is None else f"{effort.tokens:,}",
        "" if effort.seconds is None else duration_text(effort.seconds),
        "" if effort.gpu_hours is None else f"{effort.gpu_hours:.3f}",
        "" if effort.cost is None else f"{effort.cost:.2f}",
    ]


def step_text(run: Run) -> str:
    """Return the step that was kept, of how many: ``80/120``."""
    if run.step is None:
        return ""
    return f"{run.step:,}/{run.last_step:,}" if run.last_step else f"{run.step:,}"


def _data(comparison: Comparison) -> list[str]:
    runs = comparison.runs
    first = runs[0].data
    if comparison.has_same_data:
        tokens = f", {first.num_tokens:,} tokens to learn from" if first.num_tokens else ""
        return [
            f"data: the same version {first.digest[:12]}: {first.train:,} train, "
            f"{first.validation:,} validation, {first.test:,} held out{tokens}"
        ]
    rows = [
        [
            run.name,
            run.data.digest[:12] or "not prepared",
            *(f"{n:,}" for n in (run.data.train, run.data.validation, run.data.test)),
            "" if run.data.num_tokens is None else f"{run.data.num_tokens:,}",
        ]
        for run in runs
    ]
    lines = table(rows, ("RUN", "DATA VERSION", "TRAIN", "VALIDATION", "HELD OUT", "TOKENS"))
    places = list(dict.fromkeys(run.data.uri for run in runs if run.data.uri))
    if len(places) > 1:
        lines.append(f"which rows differ: finetune data diff {places[0]} {places[1]}")
    return lines


def _recipe(comparison: Comparison) -> list[str]:
    runs, parameters = comparison.runs, comparison.parameters
    if len(runs) < 2:
        return []
    if not parameters:
        return ["recipe: no setting differs"]
    if len(runs) <= MAX_COLUMNS_OF_RUNS:
        columns = ("SETTING", *(run.name for run in runs))
        return table([[p.path, *map(_cell, p.values)] for p in parameters], columns)
    rows = [[run.name, *(_cell(p.values[i]) for p in parameters)] for i, run in enumerate(runs)]
    return table(rows, ("RUN", *(p.label for p in parameters)))


def _cell(value: str) -> str:
    flat = " ".join(value.split())
    return flat if len(flat) <= MAX_CELL else f"{flat[: MAX_CELL - 3]}..."


def _curves(runs: Sequence[Run]) -> list[str]:
    with_curve = [run for run in runs if len(run.validation) > 1]
    if not with_curve:
        return []
    losses = [loss for run in with_curve for _, loss in run.validation]
    low, high = min(losses), max(losses)
    rows = [
        [
            run.name,
            bars(run.validation, low, high),
            f"{run.validation[0][1]:.4f} at step {run.validation[0][0]:,}, "
            f"{run.validation[-1][1]:.4f} at step {run.validation[-1][0]:,}",
        ]
        for run in with_curve
    ]
    return table(rows, ("VALIDATION CURVE", "", "FIRST AND LAST"))


def bars(points: Points, low: float, high: float) -> str:
    """Draw losses as bars, all on one scale; of many, evenly chosen ones."""
    number = len(points)
    size = min(number, NUM_BARS)
    chosen = [points[round(i * (number - 1) / max(1, size - 1))][1] for i in range(size)]
    span = (high - low) or 1.0
    return "".join(BARS[round((len(BARS) - 1) * (loss - low) / span)] for loss in chosen)


def _scores(comparison: Comparison) -> list[str]:
    rows = []
    for metric in comparison.metrics:
        for run in comparison.runs:
            for score in run.scores:
                if score.name == metric:
                    rows.append(
                        [
                            metric,
                            run.name,
                            score.base + _interval(score.base_low, score.base_high),
                            score.tuned + _interval(score.tuned_low, score.tuned_high),
                        ]
                    )
    return table(rows, ("METRIC", "RUN", "BASE", "TUNED")) if rows else []


def _interval(low: str, high: str) -> str:
    return f" [{low}, {high}]" if low and high else ""


def _differences(comparison: Comparison) -> list[str]:
    if not comparison.differences:
        return []
    rows = [_difference(each, comparison.runs) for each in comparison.differences]
    lines = table(rows, ("METRIC", "DIFFERENCE", "BY", "VERDICT", "HOW"))
    percent = f"{comparison.certainty * 100:g} %"
    lines.append(
        f"Brackets: {percent} intervals. A difference is real where the doubt of all pairs of its "
        f"metric together is at most {(1 - comparison.certainty) * 100:g} % (Holm's correction)."
    )
    return lines


def _difference(each: Difference, runs: Sequence[Run]) -> list[str]:
    first, second = runs[each.first].name, runs[each.second].name
    by = ""
    if each.gain is not None:
        by = f"{each.gain.value:+.4f} [{each.gain.low:.4f}, {each.gain.high:.4f}]"
    how = f"paired over {each.num_rows:,} rows" if each.is_paired else f"not paired: {each.why}"
    if each.gain is None:
        how = each.why
    return [each.metric, f"{second} - {first}", by, verdict_text(each, runs), how]


def verdict_text(each: Difference, runs: Sequence[Run]) -> str:
    """Return what a difference comes to, in words."""
    if each.verdict == "NotJudged":
        return "not judged"
    if each.verdict == "WithinNoise":
        return "within noise"
    if each.better is None:
        return "real" if each.metric in DIRECTION_UNKNOWN else "real, no better side"
    return f"{runs[each.better].name} is better"
