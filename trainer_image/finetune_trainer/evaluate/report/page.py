"""Renders ``report.html``: one file that opens anywhere, with no script and nothing to load.

What models and data say is text of strangers: the template escapes everything, and a policy in the
page forbids whatever might slip through.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.trainer import EvaluateResult, GateResult, ResolvedJob, Score
from finetune_api.v1alpha1.finetunejob import Goal
from finetune_api.v1alpha1.scoring import BASELINE_WORDS, LOWER_IS_BETTER
from finetune_trainer.evaluate.baseline.section import BaselineSection
from finetune_trainer.evaluate.goal import certainty_of
from finetune_trainer.evaluate.metrics.labels import normalize_label
from finetune_trainer.evaluate.probes.section import ProbeSection
from finetune_trainer.evaluate.report.curve import Picture
from finetune_trainer.evaluate.report.label_section import (
    LABEL_COLUMNS,
    MISTAKE_COLUMNS,
    LabelSection,
)
from finetune_trainer.pages.rendering import render

BAR_WIDTH = 160
GATE_COLUMNS = (
    {"label": "gate"},
    {"label": "verdict"},
    {"label": "metric"},
    {"label": "rows"},
    {"label": "measured", "number": True},
    {"label": "bound", "number": True},
    {"label": "asked"},
)
_LABEL_METRICS = frozenset({"exactMatch", "macroF1"})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bar:
    """Positions along a scale from 0 to 1, in pixels: where base and tuned model stand."""

    base: float
    tuned: float
    low: float
    high: float


def render_page(
    *,
    job: ResolvedJob,
    result: EvaluateResult,
    facts: Mapping[str, str | int],
    samples: Sequence[Mapping[str, Any]],
    num_samples: int,
    curve: Picture | None = None,
    labels: LabelSection | None = None,
    probes: ProbeSection | None = None,
    baseline: BaselineSection | None = None,
) -> str:
    """Render the page.

    Args:
        job: The job.
        result: Scores and goal.
        facts: Data, recipe and files, by label.
        samples: Questions shown with their answers.
        num_samples: How many there are in all.
        curve: The losses while training.
        labels: What becomes of each label, where answers are labels.
        probes: What was asked beyond the held-out rows.
        baseline: How the base model was asked.
    """
    goal = job.spec.goal
    has_labels = any(score.name in _LABEL_METRICS for score in result.scores)
    return render(
        "report/page.html.j2",
        folder=Path(__file__).parent.parent,
        job=job,
        result=result,
        facts=facts,
        samples=[_mark(sample, has_labels=has_labels) for sample in samples],
        num_samples=num_samples,
        curve=curve,
        labels=labels,
        probes=probes,
        baseline=baseline,
        label_columns=LABEL_COLUMNS,
        mistake_columns=MISTAKE_COLUMNS,
        bar_width=BAR_WIDTH,
        rows=[
            {
                "score": score,
                "asked": BASELINE_WORDS[score.baseline] if score.baseline else "",
                "gain": f"{float(score.tuned) - float(score.base):+.4f}",
                "is_goal": goal is not None and goal.metric == score.name,
                "lower_is_better": score.name in LOWER_IS_BETTER,
                "bar": _bar(score),
            }
            for score in result.scores
        ],
        goal_words=_goal_words(goal),
        certainty=f"{certainty_of(goal) * 100:g}",
        gate_columns=GATE_COLUMNS,
        gates=[_gate_cells(gate) for gate in result.gates],
    )


def _gate_cells(gate: GateResult) -> list[str]:
    verdict = "met" if gate.met else "MISSED" if gate.severity == "Block" else "missed (warning)"
    measured = gate.value or "not measured"
    rows = gate.slice or "all"
    return [gate.name, verdict, gate.metric, rows, measured, gate.bound, gate.asked]


def _bar(score: Score) -> _Bar | None:
    if score.name in LOWER_IS_BETTER or not score.tuned_low:
        return None
    texts = (score.base, score.tuned, score.tuned_low, score.tuned_high)
    base, tuned, low, high = (round(BAR_WIDTH * min(1.0, max(0.0, float(t))), 1) for t in texts)
    return _Bar(base=base, tuned=tuned, low=low, high=high)


def _goal_words(goal: Goal | None) -> list[str]:
    if goal is None:
        return []
    words = []
    if goal.at_least is not None:
        words.append(f"at least {goal.at_least}")
    if goal.at_most is not None:
        words.append(f"at most {goal.at_most}")
    if goal.over_base is not None:
        direction = "below" if goal.metric in LOWER_IS_BETTER else "above"
        words.append(f"{goal.over_base} {direction} the base model")
    return words


def _mark(sample: Mapping[str, Any], *, has_labels: bool) -> dict[str, Any]:
    """Add whether each answer is a right label; None where answers are texts."""
    right = {normalize_label(reference) for reference in sample["references"]}
    marks = {
        f"{side}_is_right": normalize_label(sample[side]) in right if has_labels else None
        for side in ("base", "tuned")
    }
    prompt = sample["prompt"]
    turns = [{"role": "", "content": prompt}] if isinstance(prompt, str) else prompt
    turns = [{"role": turn["role"], "content": _shown_text(turn)} for turn in turns]
    return {**sample, **marks, "turns": turns}


def _shown_text(message: Mapping[str, Any]) -> str:
    """Return what a message says, with the tools that it calls."""
    calls = [
        f"{call['function']['name']}({json.dumps(call['function']['arguments'])})"
        for call in message.get("tool_calls", ())
    ]
    return "\n".join([*([message["content"]] if message["content"] else []), *calls])
