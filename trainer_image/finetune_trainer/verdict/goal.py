"""Decides whether what was measured is enough to publish. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune_api.v1alpha1.evaluation.scoring import (
    JUDGE_METRICS,
    UNBOUNDED_METRICS,
    BaselineName,
    name_base,
)
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_trainer.statistics.confidence import DEFAULT_CERTAINTY, LEAST_OVER, Floats, Interval
from finetune_trainer.statistics.needed import count_of_gains, count_to_decide
from finetune_trainer.verdict.figures import compare_figures, figure_text, high_text, low_text
from finetune_trainer.verdict.hypotheses import Hypothesis, Rival, of_goal

DIGITS = 3
"""Behind the point, in sentences."""
RESAMPLED = (
    "its bounds are a bootstrap's, for it has no limits: rare rows that are much worse than all "
    "that were asked are not counted"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What the goal's metric came out as.

    Attributes:
        base: The base model's score.
        tuned: The tuned model's.
        gain: Tuned minus base, paired.
        num_prompts: Independent held-out prompts behind them.
        trivial: Score of answers that need no model, where the metric compares answers.
        rivals: What the tuned model must be better than: the best answer that stays the same.
        rows: What each row scored, of the base model and of the tuned one.
        baseline: How the base model was asked for its score, the best of all ways.
        baselines: Its score in each way, if there were several.
        places: The questions that ``rows`` are of, by their number among those that were asked;
            None where they are of all that the metric can score.
        published: The published version's score, where it was asked and can be compared.
        over_published: Tuned minus that, paired.
    """

    base: Interval
    tuned: Interval
    gain: Interval
    num_prompts: int
    trivial: float | None = None
    rivals: Sequence[Rival] = ()
    rows: tuple[Floats, Floats] | None = None
    baseline: BaselineName = "AsIs"
    baselines: Mapping[BaselineName, Interval] = field(default_factory=dict)
    places: Sequence[int] | None = None
    published: Interval | None = None
    over_published: Interval | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Criterion:
    """One threshold of a goal.

    Attributes:
        met: Whether it holds.
        words: The comparison, in words.
        remedy: What would be enough where it does not hold.
        what: What is held against the threshold.
        measured: Its value.
        bound: The near end of its interval.
        asked: The threshold, in words.
    """

    met: bool
    words: str
    remedy: str
    what: str
    measured: str = ""
    bound: str = ""
    asked: str = ""


def certainty_of(goal: Goal | None) -> float:
    """Return how sure intervals must be."""
    return DEFAULT_CERTAINTY if goal is None else float(goal.certainty)


def thresholds_of(goal: Goal) -> tuple[list[float], list[float]]:
    """Return what the tuned model's score is held against, and what tuned minus base is."""
    asked = of_goal(goal)
    return (
        [each.threshold for each in asked if not each.is_gain],
        [each.threshold for each in asked if each.is_gain],
    )


def check_goal(goal: Goal | None, measured: Measurement) -> tuple[bool | None, str]:
    """Compare the near end of each interval with what the goal asks.

    Args:
        goal: The job's goal.
        measured: What its metric came out as, with intervals of the goal's certainty.

    Returns:
        Whether all thresholds hold (None without a goal), and the comparison in words: the
        number, its bound, and how many more prompts would decide where it is missed.
    """
    if goal is None:
        return None, "the job has no goal"
    checks = find_criteria(goal, measured)
    words = ", ".join(("" if check.met else "MISSED ") + check.words for check in checks)
    words = f"{goal.metric} {words}, at {certainty_of(goal) * 100:g} % certainty"
    remedies = [check.remedy for check in checks if not check.met]
    limits = [RESAMPLED] if goal.metric in UNBOUNDED_METRICS else []
    return all(check.met for check in checks), "; ".join([words, *remedies, *limits])


def check_evidence(
    met: bool | None, words: str, *, num_prompts: int, min_prompts: int
) -> tuple[bool | None, str]:
    """Withhold a verdict that rests on too few questions, whatever the scores say.

    Args:
        met: What the goal's check said; None without a goal.
        words: Its words.
        num_prompts: Distinct held-out prompts that were answered.
        min_prompts: ``evaluation.minPrompts``.

    Returns:
        The verdict and its words; False when there are too few prompts.
    """
    if num_prompts >= min_prompts:
        return met, words
    return False, (
        f"MISSED {num_prompts} distinct held-out prompt(s), evaluation.minPrompts asks for "
        f"{min_prompts}; {words}"
    )


def find_criteria(goal: Goal, measured: Measurement) -> list[Criterion]:
    """Return what the goal asks, and whether each of it holds; see :func:`check_goal`."""
    checks = [_check_asked(goal, each, measured) for each in of_goal(goal)]
    return [*checks, *(_check_rival(goal, measured, rival) for rival in measured.rivals)]


def near_text(hypothesis: Hypothesis, score: Interval, *, sign: str = "") -> str:
    """Return in words the end of a score's interval that is held against the threshold.

    Args:
        hypothesis: What is asked.
        score: The score, in the unit of the metric.
        sign: ``+`` for a sign before positive figures too.
    """
    if hypothesis.is_lower:
        return low_text(score.low, hypothesis.threshold, digits=DIGITS, sign=sign)
    return high_text(score.high, hypothesis.threshold, digits=DIGITS, sign=sign)


def _check_asked(goal: Goal, asked: Hypothesis, measured: Measurement) -> Criterion:
    score = measured.gain if asked.is_gain else measured.tuned
    better, wanted = asked.turn(score)
    if asked.is_gain:
        base, name = measured.base, name_base(measured.baseline)
        low, high = low_text(base.low, digits=DIGITS), high_text(base.high, digits=DIGITS)
        value = _value(better, wanted, sign="+")
        near = low_text(better.low, wanted, digits=DIGITS, sign="+")
        what, least = f"gain over {name} ({base.value:.3f})", f"at least {goal.over_base}"
        start = f"{value} over {name} {base.value:.3f} [{low}, {high}], lower"
    else:
        value, near = _value(score, asked.threshold), near_text(asked, score)
        what, least = "score", asked.words
        start = f"{value}, {'lower' if asked.is_lower else 'upper'}"
    at_limit = asked.is_at_limit(score.value)
    remedy = _remedy(goal, better, wanted, measured.num_prompts, at_limit=at_limit)
    return Criterion(
        met=not remedy,
        words=f"{start} bound {near} (goal: {least})",
        remedy=remedy,
        what=what,
        measured=value,
        bound=near,
        asked=least,
    )


def _check_rival(goal: Goal, measured: Measurement, rival: Rival) -> Criterion:
    if rival.over is None:
        return Criterion(met=False, words=rival.problem, remedy="", what=rival.problem)
    certainty = certainty_of(goal)
    over, number = rival.over.interval(certainty), measured.num_prompts
    remedy = _remedy(goal, over, LEAST_OVER, number, at_limit=over.value == 1)
    if rival.is_label and remedy:
        remedy += (
            "; being better than one label shows only on held-out prompts with another one, of "
            f"which {count_of_gains(certainty)} right ones are the least"
        )
    by = f" by {rival.by}" if rival.by else ""
    return Criterion(
        met=not remedy,
        words=word_rival(rival, certainty),
        remedy=remedy,
        what=f"gain over {rival.what}{by} ({rival.score:.3f})",
        measured=_value(over, 0, sign="+"),
        bound=low_text(over.low, 0, digits=DIGITS, sign="+"),
        asked="above 0",
    )


def word_rival(rival: Rival, certainty: float) -> str:
    """Say how far the tuned model is above what it must be better than.

    Args:
        rival: That, with a known score.
        certainty: Of the interval.
    """
    assert rival.over is not None
    over = rival.over.interval(certainty)
    by = f" by {rival.by}" if rival.by else ""
    return (
        f"{_value(over, 0, sign='+')} over {rival.what}{by} ({rival.score:.3f}), "
        f"lower bound {low_text(over.low, 0, digits=DIGITS, sign='+')} (must be above 0)"
    )


def _value(score: Interval, wanted: float, *, sign: str = "") -> str:
    return figure_text(score.value, wanted, digits=DIGITS, sign=sign)


def _remedy(goal: Goal, score: Interval, wanted: float, num_prompts: int, *, at_limit: bool) -> str:
    """Return what would be enough; empty where the lower bound reaches what is wanted."""
    if compare_figures(score.low, wanted) >= 0:
        return ""
    return what_decides(goal.metric, score, wanted, num_prompts, at_limit=at_limit)


def what_decides(
    metric: str, score: Interval, wanted: float, num_prompts: int, *, at_limit: bool
) -> str:
    """Say what would decide whether a score reaches what is wanted, where its lower bound misses.

    Args:
        metric: The metric.
        score: The score, the greater the better.
        wanted: What the lower bound should reach.
        num_prompts: Independent prompts behind it.
        at_limit: The score can be no better.
    """
    side = compare_figures(score.value, wanted)
    if side < 0:
        return "the score itself misses, which no number of held-out prompts changes"
    if side == 0:
        return (
            "the score is just what is asked and no more, so its bound misses on any number of "
            "held-out prompts: it takes a better score, or asking for less"
        )
    total = count_to_decide(
        value=score.value, bound=score.low, threshold=wanted, number=num_prompts, at_limit=at_limit
    )
    if total is None:
        return "no feasible number of held-out prompts would decide it"
    return (
        f"if the score stays, about {total - num_prompts:,} independent held-out prompts more "
        f"than these {num_prompts:,} would decide it{_how_judged(metric)}"
    )


def _how_judged(metric: str) -> str:
    """Say what bounds how many prompts a metric sees, where that is not their number alone."""
    if metric not in JUDGE_METRICS:
        return ""
    return " (a judge sees as many as evaluation.judge.sample and half of maxCalls allow)"
