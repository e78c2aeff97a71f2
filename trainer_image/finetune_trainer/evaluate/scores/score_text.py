"""What was measured of one metric, as the text that reports and statuses have. Pure."""

from __future__ import annotations

from finetune_api.protocol.evaluation_result import BaselineScore, Score
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_trainer.verdict.figures import figure_text, high_text, low_text, make_score
from finetune_trainer.verdict.goal import Measurement, certainty_of, thresholds_of


def score_from(name: str, measured: Measurement, goal: Goal | None) -> Score:
    """Return a metric's figures as text.

    Args:
        name: The metric.
        measured: What it came out as.
        goal: The job's goal, whose thresholds no figure may seem to stand on the other side of.
    """
    asked, gain_asked = thresholds_of(goal) if goal and goal.metric == name else ([], [])
    told = make_score(
        name,
        base=measured.base,
        tuned=measured.tuned,
        gain=measured.gain,
        asked=asked,
        gain_asked=gain_asked,
    )
    has_several = len(measured.baselines) > 1
    return told.model_copy(
        update={
            "baseline": measured.baseline if has_several or measured.baseline != "AsIs" else None,
            "baselines": _baseline_scores(measured) if has_several else None,
            "trivial": "" if measured.trivial is None else figure_text(measured.trivial),
            **_published_figures(measured),
            **_constant_figures(measured, certainty_of(goal)),
        }
    )


def _constant_figures(measured: Measurement, certainty: float) -> dict[str, str]:
    rival = measured.rivals[0] if measured.rivals else None
    if rival is None or rival.over is None:
        return {}
    over = rival.over.interval(certainty)
    return {
        "constant": figure_text(rival.score),
        "constant_words": f"{rival.constant}, by {rival.by}" if rival.by else rival.constant,
        "over_constant": figure_text(over.value, 0, sign="+"),
        "over_constant_low": low_text(over.low, 0, sign="+"),
    }


def _published_figures(measured: Measurement) -> dict[str, str]:
    published, over = measured.published, measured.over_published
    if published is None or over is None:
        return {}
    return {
        "published": figure_text(published.value),
        "published_low": low_text(published.low),
        "published_high": high_text(published.high),
        "over_published_low": low_text(over.low),
        "over_published_high": high_text(over.high),
    }


def _baseline_scores(measured: Measurement) -> list[BaselineScore]:
    return [
        BaselineScore(
            asked=way, value=figure_text(it.value), low=low_text(it.low), high=high_text(it.high)
        )
        for way, it in measured.baselines.items()
    ]
