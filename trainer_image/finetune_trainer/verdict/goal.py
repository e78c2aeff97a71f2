"""Decides whether what was measured is enough to publish. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from finetune_api.v1alpha1.evaluation.scoring import (
    JUDGE_METRICS,
    LOWER_IS_BETTER,
    UNBOUNDED_METRICS,
    BaselineName,
    name_base,
)
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_trainer.statistics.confidence import (
    DEFAULT_CERTAINTY,
    LEAST_OVER,
    Floats,
    Interval,
)
from finetune_trainer.statistics.needed import count_of_gains, count_to_decide
from finetune_trainer.verdict.figures import (
    compare_figures,
    figure_text,
    high_text,
    low_text,
)
from finetune_trainer.verdict.hypotheses import Rival

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
    scores = [float(each) for each in (goal.at_least, goal.at_most) if each is not None]
    sign = -1 if goal.metric in LOWER_IS_BETTER else 1
    return scores, [] if goal.over_base is None else [sign * float(goal.over_base)]


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
    return list(_check_all(goal, measured))


def _check_all(goal: Goal, measured: Measurement) -> Iterator[Criterion]:
    tuned, number = measured.tuned, measured.num_prompts
    is_bounded = goal.metric not in UNBOUNDED_METRICS
    if goal.at_least is not None:
        wanted = float(goal.at_least)
        words = f"{_value(tuned, wanted)}, lower bound {low_text(tuned.low, wanted, digits=DIGITS)}"
        words = f"{words} (goal: at least {goal.at_least})"
        at_limit = is_bounded and tuned.value == 1
        check = _check(goal, tuned, wanted, words, number, at_limit=at_limit)
        yield _told(check, "score", tuned, wanted, f"at least {goal.at_least}")
    if goal.at_most is not None:
        most = float(goal.at_most)
        words = f"{_value(tuned, most)}, upper bound {high_text(tuned.high, most, digits=DIGITS)}"
        words = f"{words} (goal: at most {goal.at_most})"
        at_limit = is_bounded and tuned.value == 0
        check = _check(goal, tuned.negated(), -most, words, number, at_limit=at_limit)
        told = _told(check, "score", tuned, most, f"at most {goal.at_most}")
        yield replace(told, bound=high_text(tuned.high, most, digits=DIGITS))
    if goal.over_base is not None:
        yield _check_gain(goal, measured, float(goal.over_base))
    for rival in measured.rivals:
        yield _check_rival(goal, measured, rival)


def _told(
    check: Criterion, what: str, score: Interval, wanted: float, asked: str, *, sign: str = ""
) -> Criterion:
    """Add the figures of a comparison to it."""
    return replace(
        check,
        what=what,
        measured=_value(score, wanted, sign=sign),
        bound=low_text(score.low, wanted, digits=DIGITS, sign=sign),
        asked=asked,
    )


def _check_gain(goal: Goal, measured: Measurement, wanted: float) -> Criterion:
    is_loss = goal.metric in LOWER_IS_BETTER
    better = measured.gain.negated() if is_loss else measured.gain
    base = measured.base
    low, high = low_text(base.low, digits=DIGITS), high_text(base.high, digits=DIGITS)
    words = (
        f"{_value(better, wanted, sign='+')} over {name_base(measured.baseline)} "
        f"{base.value:.3f} [{low}, {high}], "
        f"lower bound {low_text(better.low, wanted, digits=DIGITS, sign='+')} "
        f"(goal: at least {goal.over_base})"
    )
    at_limit = goal.metric not in UNBOUNDED_METRICS and better.value == 1
    check = _check(goal, better, wanted, words, measured.num_prompts, at_limit=at_limit)
    what = f"gain over {name_base(measured.baseline)} ({base.value:.3f})"
    return _told(check, what, better, wanted, f"at least {goal.over_base}", sign="+")


def _check_rival(goal: Goal, measured: Measurement, rival: Rival) -> Criterion:
    if rival.over is None:
        return Criterion(met=False, words=rival.problem, remedy="", what=rival.problem)
    over, number = rival.over.interval(certainty_of(goal)), measured.num_prompts
    words = word_rival(rival, certainty_of(goal))
    check = _check(goal, over, LEAST_OVER, words, number, at_limit=over.value == 1)
    by = f" by {rival.by}" if rival.by else ""
    what = f"gain over {rival.what}{by} ({rival.score:.3f})"
    check = _told(check, what, over, 0, "above 0", sign="+")
    if not rival.is_label or check.met:
        return check
    least = count_of_gains(certainty_of(goal))
    remedy = (
        f"{check.remedy}; being better than one label shows only on held-out prompts with "
        f"another one, of which {least} right ones are the least"
    )
    return replace(check, remedy=remedy)


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


def _check(
    goal: Goal, score: Interval, wanted: float, words: str, num_prompts: int, *, at_limit: bool
) -> Criterion:
    """Tell whether the lower bound reaches what is wanted, and if not what would be enough."""
    if compare_figures(score.low, wanted) >= 0:
        return Criterion(met=True, words=words, remedy="", what="")
    remedy = what_decides(goal.metric, score, wanted, num_prompts, at_limit=at_limit)
    return Criterion(met=False, words=words, remedy=remedy, what="")


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
        value=score.value,
        bound=score.low,
        threshold=wanted,
        number=num_prompts,
        at_limit=at_limit,
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
