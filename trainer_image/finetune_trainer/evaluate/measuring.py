"""Scores both models by every metric that fits, with bounds, beside answers without a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from finetune_api.trainer import ResolvedJob, Score
from finetune_trainer.errors import DataError
from finetune_trainer.evaluate.answering import Comparison
from finetune_trainer.evaluate.comparing import compare
from finetune_trainer.evaluate.goal import Measurement, certainty_of
from finetune_trainer.evaluate.metrics.answers import Answers, Measured
from finetune_trainer.evaluate.metrics.catalog import (
    LIKELIHOOD_METRICS,
    NO_SETTINGS,
    UNBOUNDED_METRICS,
    Settings,
    choose_metrics,
    measure,
)
from finetune_trainer.evaluate.questions import group_questions
from finetune_trainer.evaluate.trivial import Trivial, answer_trivially
from finetune_trainer.statistics.paired import Compared

LABEL_METRICS = ("exactMatch", "macroF1")
COMPARED_WITH_TRIVIAL = (*LABEL_METRICS, "rougeL", "chrF", "bleu", "contains", "numberClose")


def score_all(
    job: ResolvedJob, comparison: Comparison, settings: Settings = NO_SETTINGS
) -> tuple[list[Score], dict[str, Measurement]]:
    """Compute every metric of the job with intervals; the goal's metric first.

    Args:
        job: The effective job.
        comparison: What both models said.
        settings: What the job tells some metrics.

    Returns:
        The scores as text, and as numbers by metric.

    Raises:
        DataError: A metric compares answers, and no held-out row has one.
        UserError: A metric of the user's own, or a pattern of theirs, failed.
    """
    goal_metric = job.spec.goal.metric if job.spec.goal else None
    answered = [question.references for question in comparison.asked]
    names = choose_metrics(
        answered,
        goal_metric,
        has_pairs=comparison.base.preferred is not None,
        evaluation=job.spec.evaluation,
    )
    trivial = answer_trivially(comparison.asked) if answered else None
    scores = []
    measured = {}
    for name in names:
        if not answered and name not in LIKELIHOOD_METRICS:
            raise DataError(
                "MetricUnsuitable",
                f"metric {name} compares answers, and no held-out row has one; use loss, "
                "perplexity or bitsPerByte",
            )
        measured[name] = _measure(job, comparison, name, trivial, settings)
        scores.append(_score_from(name, measured[name]))
    return scores, measured


def _measure(
    job: ResolvedJob,
    comparison: Comparison,
    name: str,
    trivial: Trivial | None,
    settings: Settings,
) -> Measurement:
    # Plain text has no answer to compare: it counts for the loss alone.
    rows = comparison.questions if name in LIKELIHOOD_METRICS else comparison.asked
    groups = group_questions(rows)
    references = [question.references for question in comparison.asked]
    prompts = [question.prompt for question in comparison.asked]

    def score(said: Answers) -> Measured:
        return measure(name, said, references, settings=settings, prompts=prompts)

    def set_against(other: Measured) -> Compared:
        return compare(
            other,
            tuned,
            groups,
            is_bounded=name not in UNBOUNDED_METRICS,
            num_samples=job.spec.evaluation.num_bootstrap_samples,
            seed=job.spec.dataset.split.seed,
        )

    base, tuned = score(comparison.base), score(comparison.tuned)
    compared = set_against(base)
    certainty = certainty_of(job.spec.goal)
    without_model, over_trivial = None, None
    if trivial is not None and name in COMPARED_WITH_TRIVIAL:
        answers = score(replace(comparison.base, texts=trivial.texts))
        without_model = answers.over(np.arange(len(references)))
        if trivial.is_label and name in LABEL_METRICS:
            over_trivial = set_against(answers).gain.interval(certainty)
    return Measurement(
        base=compared.base.interval(certainty),
        tuned=compared.tuned.interval(certainty),
        gain=compared.gain.interval(certainty),
        num_prompts=len(groups),
        trivial=without_model,
        over_trivial=over_trivial,
        rows=(base.rows, tuned.rows),
    )


def _score_from(name: str, measured: Measurement) -> Score:
    base, tuned, gain = measured.base, measured.tuned, measured.gain
    return Score(
        name=name,
        base=_text(base.value),
        base_low=_text(base.low),
        base_high=_text(base.high),
        tuned=_text(tuned.value),
        tuned_low=_text(tuned.low),
        tuned_high=_text(tuned.high),
        delta_low=_text(gain.low),
        delta_high=_text(gain.high),
        trivial="" if measured.trivial is None else _text(measured.trivial),
    )


def gather_row_scores(
    comparison: Comparison, measured: dict[str, Measurement]
) -> list[dict[str, tuple[float, float]]]:
    """Return what base and tuned model scored by each metric, for every question that was asked.

    Args:
        comparison: What both models said.
        measured: What :func:`score_all` made of it.
    """
    asked = [i for i, q in enumerate(comparison.questions) if q.prompt is not None]
    scores: list[dict[str, tuple[float, float]]] = [{} for _ in asked]
    for name, measurement in measured.items():
        assert measurement.rows is not None
        base, tuned = measurement.rows
        # Likelihoods are those of all questions, also of plain text.
        places = asked if name in LIKELIHOOD_METRICS else range(len(asked))
        for row, place in zip(scores, places, strict=True):
            row[name] = round(float(base[place]), 4), round(float(tuned[place]), 4)
    return scores


def _text(value: float) -> str:
    return f"{value:.4f}"
