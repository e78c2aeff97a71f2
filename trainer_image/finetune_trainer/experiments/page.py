"""Renders a comparison as one page: nothing to load, no script, everything also in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.protocol.evaluation_result import Score
from finetune_api.v1alpha1.evaluation.scoring import UNBOUNDED_METRICS
from finetune_trainer.experiments.comparison import (
    Comparison,
    comparable_losses,
    score_of,
)
from finetune_trainer.experiments.differences import Difference
from finetune_trainer.experiments.pictures import (
    NUM_COLOURS,
    choose_colours,
    draw_coordinates,
    draw_curves,
)
from finetune_trainer.experiments.run import Run
from finetune_trainer.pages.rendering import render

BAR_WIDTH = 160
DASHES = ("none", "8 4", "2 3", "10 3 2 3", "14 4", "4 4", "1 4", "12 3 1 3")
VERDICTS = {"NotJudged": "not judged", "WithinNoise": "within noise", "Real": "real"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """A run's score by one metric, and where its interval lies on a scale from 0 to 1."""

    run: str
    score: Score
    low: float | None
    at: float
    high: float


def render_page(comparison: Comparison, *, title: str, first: Sequence[str] = ()) -> str:
    """Render the page; ``first`` are sentences before any comparison."""
    runs = comparison.runs
    losses = comparable_losses(runs)
    best = sorted(range(len(runs)), key=lambda i: (losses[i] is None, losses[i] or 0.0))
    colours = choose_colours(runs, best=best)
    coloured = [
        (colour, run.name) for run, colour in zip(runs, colours, strict=True) if colour is not None
    ]
    return render(
        "page.html.j2",
        folder=Path(__file__).parent,
        title=title,
        first=first,
        introduction=_introduction(comparison),
        comparison=comparison,
        runs=runs,
        curves=draw_curves(runs, colours),
        coordinates=draw_coordinates(runs, comparison.parameters, losses, colours),
        picked=sorted(coloured),
        num_grey=len(runs) - len(coloured),
        dashes=DASHES,
        num_colours=NUM_COLOURS,
        bar_width=BAR_WIDTH,
        percent=f"{comparison.certainty * 100:g}",
        doubt=f"{(1 - comparison.certainty) * 100:g}",
        **_tables(comparison),
    )


def _tables(comparison: Comparison) -> dict[str, Any]:
    runs, parameters = comparison.runs, comparison.parameters
    has_validation = any(run.validation_score for run in runs)
    has_cost = any(run.effort.cost is not None for run in runs)
    return {
        "has_validation": has_validation,
        "has_cost": has_cost,
        "run_rows": [
            _run_cells(run, has_validation=has_validation, has_cost=has_cost) for run in runs
        ],
        "curve_rows": _curve_rows(runs),
        "parameter_columns": [
            {"label": label} for label in ("run", *(p.label for p in parameters))
        ],
        "parameter_rows": [
            [run.name, *(each.values[i] for each in parameters)] for i, run in enumerate(runs)
        ],
        "importance_rows": [
            [
                each.parameter.path,
                f"{each.correlation.value:+.2f}",
                f"{each.correlation.low:+.2f} to {each.correlation.high:+.2f}",
                "yes" if each.is_shown else "not shown",
            ]
            for each in comparison.importance
        ],
        "metrics": {name: _score_rows(name, runs) for name in comparison.metrics},
        "difference_rows": [_difference_cells(each, runs) for each in comparison.differences],
        "data_rows": [_data_cells(run) for run in runs],
    }


def _introduction(comparison: Comparison) -> str:
    number = len(comparison.runs)
    data = "of which not all have prepared their data"
    if comparison.has_same_data:
        data = "on the same version of the data"
    elif comparison.has_different_data:
        data = "on different data"
    settings = len(comparison.parameters)
    return (
        f"{number} run{'s' if number != 1 else ''} {data}; {settings or 'no'} "
        f"setting{'s' if settings != 1 else ''} differ{'s' if settings == 1 else ''}."
    )


def _run_cells(run: Run, *, has_validation: bool, has_cost: bool) -> list[str]:
    effort, loss = run.effort, run.validation_loss
    of = f" of {run.last_step:,}" if run.last_step else ""
    return [
        run.name,
        run.state,
        "" if loss is None else f"{loss:.4f}",
        *([run.validation_text] if has_validation else []),
        "" if run.step is None else f"{run.step:,}{of}",
        "" if effort.tokens is None else f"{effort.tokens:,}",
        "" if effort.seconds is None else f"{effort.seconds / 60:,.1f}",
        "" if effort.gpu_hours is None else f"{effort.gpu_hours:.3f}",
        *(["" if effort.cost is None else f"{effort.cost:.2f}"] if has_cost else []),
    ]


def _curve_rows(runs: Sequence[Run]) -> list[list[str]]:
    return [
        [run.name, ", ".join(f"{step:,}: {loss:.4f}" for step, loss in run.validation)]
        for run in runs
        if len(run.validation) > 1
    ]


def _score_rows(metric: str, runs: Sequence[Run]) -> list[ScoreRow]:
    rows = []
    for run in runs:
        score = score_of(run, metric)
        if score is None:
            continue
        is_drawn = metric not in UNBOUNDED_METRICS and bool(score.tuned_low)
        places = [score.tuned_low or score.tuned, score.tuned, score.tuned_high or score.tuned]
        low, at, high = (round(BAR_WIDTH * min(1.0, max(0.0, float(text))), 1) for text in places)
        rows.append(
            ScoreRow(run=run.name, score=score, low=low if is_drawn else None, at=at, high=high)
        )
    return rows


def _difference_cells(each: Difference, runs: Sequence[Run]) -> list[str]:
    first, second = runs[each.first].name, runs[each.second].name
    verdict = VERDICTS[each.verdict]
    if each.better is not None:
        verdict = f"{runs[each.better].name} is better"
    by = interval = ""
    if each.gain is not None:
        by = f"{each.gain.value:+.4f}"
        interval = f"{each.gain.low:+.4f} to {each.gain.high:+.4f}"
    how = each.why
    if each.gain is not None:
        how = f"paired over {each.num_rows:,}" if each.is_paired else f"not paired: {each.why}"
    return [f"{second} minus {first}", each.metric, by, interval, verdict, how]


def _data_cells(run: Run) -> list[str]:
    data = run.data
    return [
        run.name,
        data.digest[:16] or "not prepared",
        f"{data.train:,}",
        f"{data.validation:,}",
        f"{data.test:,}",
        "" if data.num_tokens is None else f"{data.num_tokens:,}",
    ]
