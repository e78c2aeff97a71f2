"""Scores both models by every metric that fits, with bounds, beside answers without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune_api.protocol.evaluation_result import Score
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.scoring import (
    ANSWER_METRICS,
    FORM_METRICS,
    JUDGE_METRICS,
    LIKELIHOOD_METRICS,
    UNBOUNDED_METRICS,
    BaselineName,
)
from finetune_trainer.errors import DataError
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers, Measured
from finetune_trainer.evaluate.metrics.catalog import (
    NO_SETTINGS,
    Settings,
    choose_metrics,
    measure,
)
from finetune_trainer.evaluate.metrics.labels import normalize_label
from finetune_trainer.evaluate.questions import Question, group_questions
from finetune_trainer.evaluate.scores.comparing import Ints, compare, value_over
from finetune_trainer.evaluate.scores.constants import (
    content_metric,
    find_best,
    judge_alike,
    rank_at_random,
)
from finetune_trainer.evaluate.scores.prompt_choice import best_of, ways_of
from finetune_trainer.evaluate.scores.score_text import score_from
from finetune_trainer.evaluate.scores.slices import take_judged
from finetune_trainer.evaluate.scores.trivial import (
    MOST_FREQUENT,
    answer_trivially,
    choose_by_length,
    drop_long,
    score_texts,
)
from finetune_trainer.statistics.confidence import SLACK, Interval
from finetune_trainer.statistics.needed import count_of_gains
from finetune_trainer.statistics.paired import Compared
from finetune_trainer.verdict.goal import Measurement, certainty_of
from finetune_trainer.verdict.hypotheses import Rival

COMPARED_WITH_TRIVIAL = (
    *("exactMatch", "macroF1", "rougeL", "chrF", "bleu", "contains", "numberClose"),
)


def score_all(
    job: ResolvedJob, comparison: Comparison, settings: Settings = NO_SETTINGS
) -> tuple[list[Score], dict[str, Measurement]]:
    """Compute every metric of the job with intervals; the goal's metric first.

    Args:
        job: The effective job.
        comparison: What both models said.
        settings: What the job tells some metrics.

    Returns:
        The scores as text, and as numbers by metric; without those of ``unmeasured``.

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
    scores = []
    measured = {}
    for name in names:
        if name in comparison.unmeasured:
            continue
        if not answered and name not in LIKELIHOOD_METRICS:
            raise DataError(
                "MetricUnsuitable",
                f"metric {name} compares answers, and no held-out row has one; use loss, "
                "perplexity or bitsPerByte",
            )
        measured[name] = measure_one(job, comparison, name, settings)
        scores.append(score_from(name, measured[name], job.spec.goal))
    return scores, measured


@dataclass(frozen=True, kw_only=True, slots=True)
class _Metric:
    """One metric of one comparison, as a job measures it."""

    job: ResolvedJob
    comparison: Comparison
    name: str
    settings: Settings

    @property
    def groups(self) -> list[Ints]:
        """Row indices of each cluster."""
        return group_questions(self.comparison.scored_by(self.name))

    def score(self, said: Answers) -> Measured:
        """Return what one model scores."""
        asked = self.comparison.asked
        references = [question.references for question in asked]
        prompts = [question.prompt for question in asked]
        return measure(self.name, said, references, settings=self.settings, prompts=prompts)

    def score_base(self) -> tuple[BaselineName, dict[BaselineName, Measured]]:
        """Return what the base model scores in each way that it was asked, and the best way."""
        ways = ways_of(self.name, self.comparison)
        scores = {way: self.score(said) for way, said in ways.items()}
        overall = {way: self.value_of(each) for way, each in scores.items()}
        return best_of(self.name, overall), scores

    def value_of(self, scored: Measured) -> float:
        """Return the score over all rows."""
        if self.name in UNBOUNDED_METRICS:
            return scored.over(np.arange(len(scored.rows)))
        return value_over(scored, self.groups)

    def find_rivals(self) -> tuple[Rival, ...]:
        """Return what a model must be better than that has learned more than one answer."""
        asked = self.comparison.asked
        best = find_best(
            self.name,
            asked,
            own=self.comparison.tuned.texts,
            trained=self.comparison.trained,
            settings=self.settings,
        )
        if best is None:
            return (
                Rival(
                    problem="evaluation.customMetric failed on every answer that stays the same, "
                    "so whether the model is better than one of them is not known: correct the "
                    "function, so that it scores any text"
                ),
            )
        constant, scored = best
        tuned, what = self.score(self.comparison.tuned), constant.what
        if self.name == "contains":
            tuned = drop_long(tuned, self.comparison.tuned.texts, asked)
            what += " (long copies of the prompt count 0)"
        compared = self.compare(scored, tuned)
        rival = Rival(
            what=f"always giving {what}",
            constant=constant.what,
            score=compared.base.value,
            over=compared.gain,
            is_label=constant.what == MOST_FREQUENT,
        )
        if self.name != "macroF1":
            return (rival,)
        return rival, rank_at_random([each.references for each in asked], compared.tuned)

    def find_length_rival(self) -> tuple[Rival, ...]:
        """Return the rule that goes by length alone, where it is better than chance."""
        word, rule = choose_by_length(self.comparison.scored_by(self.name))
        found = self.compare(rule, self.score(self.comparison.tuned))
        if found.base.interval(certainty_of(self.job.spec.goal)).low <= 0.5:
            return ()
        what, score = f"the {word} answer of each pair", found.base.value
        return (Rival(what=f"preferring {what}", constant=what, score=score, over=found.gain),)

    def compare(self, before: Measured, after: Measured) -> Compared:
        """Compare two models' scores on the same rows."""
        return compare(
            before,
            after,
            self.groups,
            is_bounded=self.name not in UNBOUNDED_METRICS,
            num_samples=self.job.spec.evaluation.num_bootstrap_samples,
            seed=self.job.spec.dataset.split.seed,
        )


def compare_by(
    job: ResolvedJob, comparison: Comparison, name: str, settings: Settings = NO_SETTINGS
) -> tuple[Compared, int, BaselineName]:
    """Compare the best that the base came to with the tuned model, by one metric.

    Args:
        job: The effective job.
        comparison: What both said to at least one question that the metric can score.
        name: The metric.
        settings: What the job tells some metrics.

    Returns:
        The comparison, the independent prompts behind it, and how the base was asked.

    Raises:
        UserError: A metric of the user's own, or a pattern of theirs, failed.
    """
    if name in JUDGE_METRICS:
        comparison, _ = take_judged(comparison, name)
    metric = _Metric(job=job, comparison=comparison, name=name, settings=settings)
    best, bases = metric.score_base()
    compared = metric.compare(bases[best], metric.score(comparison.tuned))
    return compared, len(metric.groups), best


def compare_published(
    job: ResolvedJob, comparison: Comparison, name: str, settings: Settings = NO_SETTINGS
) -> tuple[Compared, int] | None:
    """Compare the published version with the tuned model, by one metric; as :func:`compare_by`.

    Returns:
        The comparison, with the published version as its base, and the independent prompts behind
        it; None where the two cannot be compared by this metric.
    """
    published, tuned = comparison.published, comparison.tuned
    if published is None or name in JUDGE_METRICS:
        return None
    # Another chat template may count other tokens, and losses compare over the same alone.
    if name in LIKELIHOOD_METRICS and not np.array_equal(published.num_tokens, tuned.num_tokens):
        return None
    metric = _Metric(job=job, comparison=comparison, name=name, settings=settings)
    compared = metric.compare(metric.score(published), metric.score(tuned))
    return compared, len(metric.groups)


def find_rivals(
    job: ResolvedJob,
    comparison: Comparison,
    name: str,
    settings: Settings = NO_SETTINGS,
    *,
    whole: Comparison | None = None,
) -> tuple[Rival, ...]:
    """Return what the tuned model must be better than to meet a level, by one metric.

    Where one answer scores best, as ``{}`` by ``jsonValid`` or a label on the rows that have it,
    the two are compared by what answers say. Where it scores best by that too, or where so few rows
    of a slice have another label that no model could show a gain, all rows are compared.

    Args:
        job: The effective job.
        comparison: What was said to the questions that are looked at.
        name: The metric.
        settings: What the job tells some metrics.
        whole: What was said to all questions, of which these are a slice.

    Returns:
        The best constant first; nothing where the metric compares no answers.

    Raises:
        UserError: A pattern of the user's takes too long.
    """
    if name in JUDGE_METRICS:
        part, _ = take_judged(comparison, name)
        alike = judge_alike(part.tuned.texts, part.asked)
        return (alike,) if alike else ()
    if name == "preferenceAccuracy":
        metric = _Metric(job=job, comparison=comparison, name=name, settings=settings)
        return metric.find_length_rival()
    if name not in ANSWER_METRICS:
        return ()
    scopes = [comparison] if whole is None else [comparison, whole]
    steps = [(scope, content_metric([q.references for q in scope.asked])) for scope in scopes]
    rivals: tuple[Rival, ...] = ()
    last = steps[-1][0]
    for scope, by in [(comparison, name), *steps]:
        if by in FORM_METRICS or (scope is not last and _has_one_label(job, scope, by)):
            continue
        found = _Metric(job=job, comparison=scope, name=by, settings=settings).find_rivals()
        rivals = found if by == name else tuple(replace(each, by=by) for each in found)
        if rivals[0].problem or rivals[0].score < 1 - SLACK:
            break
    return rivals


def _has_one_label(job: ResolvedJob, scope: Comparison, by: str) -> bool:
    """Whether too few rows have another label than the most frequent one to show a gain by."""
    if by not in ("exactMatch", "macroF1") or not scope.asked:
        return False
    labels = Counter(normalize_label(question.references[0]) for question in scope.asked)
    num_others = labels.total() - labels.most_common(1)[0][1]
    return num_others < count_of_gains(certainty_of(job.spec.goal))


def score_alone(
    job: ResolvedJob,
    questions: Sequence[Question],
    said: Answers,
    name: str,
    settings: Settings = NO_SETTINGS,
) -> tuple[Interval, Measured]:
    """Score one model by one metric, beside nobody.

    Args:
        job: The effective job.
        questions: What it was asked, at least one of which the metric can score.
        said: What it said.
        name: The metric.
        settings: What the job tells some metrics.

    Returns:
        The score with bounds of the goal's certainty, and what the rows score.

    Raises:
        UserError: A metric of the user's own, or a pattern of theirs, failed.
    """
    comparison = Comparison(questions=questions, base=said, tuned=said)
    metric = _Metric(job=job, comparison=comparison, name=name, settings=settings)
    score = metric.score(said)
    return metric.compare(score, score).tuned.interval(certainty_of(job.spec.goal)), score


def measure_one(
    job: ResolvedJob, comparison: Comparison, name: str, settings: Settings = NO_SETTINGS
) -> Measurement:
    """Compute one metric with intervals; as :func:`score_all`."""
    places = None
    if name in JUDGE_METRICS:
        comparison, places = take_judged(comparison, name)
    metric = _Metric(job=job, comparison=comparison, name=name, settings=settings)
    best, bases = metric.score_base()
    tuned = metric.score(comparison.tuned)
    against = {way: metric.compare(base, tuned) for way, base in bases.items()}
    compared = against[best]
    certainty = certainty_of(job.spec.goal)
    without_model = None
    if comparison.asked and name in COMPARED_WITH_TRIVIAL:
        _, texts = answer_trivially(comparison.asked)
        answers = score_texts(name, texts, comparison.asked, settings)
        without_model = metric.value_of(answers)
    beside = compare_published(job, comparison, name, settings)
    return Measurement(
        base=compared.base.interval(certainty),
        tuned=compared.tuned.interval(certainty),
        gain=compared.gain.interval(certainty),
        num_prompts=len(metric.groups),
        trivial=without_model,
        rivals=find_rivals(job, comparison, name, settings) if comparison.asked else (),
        rows=(bases[best].rows, tuned.rows),
        baseline=best,
        baselines={way: each.base.interval(certainty) for way, each in against.items()},
        places=places,
        published=beside[0].base.interval(certainty) if beside else None,
        over_published=beside[0].gain.interval(certainty) if beside else None,
    )


def gather_row_scores(
    comparison: Comparison, measured: dict[str, Measurement]
) -> list[dict[str, tuple[float, float]]]:
    """Return what base and tuned model scored by each metric, for every question that was asked.

    The base model's is that of the answers which the tuned model is compared with.

    Args:
        comparison: What both models said.
        measured: What :func:`score_all` made of it.
    """
    asked = [i for i, q in enumerate(comparison.questions) if q.prompt is not None]
    scores: list[dict[str, tuple[float, float]]] = [{} for _ in asked]
    for name, measurement in measured.items():
        assert measurement.rows is not None
        base, tuned = measurement.rows
        if measurement.places is not None:
            for number, place in enumerate(measurement.places):
                scores[place][name] = _rounded(base[number]), _rounded(tuned[number])
            continue
        # Likelihoods are those of all questions, also of plain text.
        places = asked if name in LIKELIHOOD_METRICS else range(len(asked))
        for row, place in zip(scores, places, strict=True):
            row[name] = _rounded(base[place]), _rounded(tuned[place])
    return scores


def _rounded(score: float) -> float:
    return round(float(score), 4)
