"""Decides whether what was measured is enough to publish. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from finetune_api.v1alpha1.evaluation import Goal
from finetune_api.v1alpha1.scoring import LOWER_IS_BETTER, BaselineName, name_base
from finetune_trainer.evaluate.metrics.answers import Floats
from finetune_trainer.statistics.confidence import DEFAULT_CERTAINTY, Interval
from finetune_trainer.statistics.needed import count_of_gains, count_to_decide

SLACK = 1e-9
"""Scores are floats: 0.9 reached as 0.8999999999 is reached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What the goal's metric came out as.

    Attributes:
        base: The base model's score.
        tuned: The tuned model's.
        gain: Tuned minus base, paired.
        num_prompts: Independent held-out prompts behind them.
        trivial: Score of answers that need no model, where the metric compares answers.
        over_trivial: Tuned minus that, paired, where answers are labels: what must be above 0.
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
    over_trivial: Interval | None = None
    rows: tuple[Floats, Floats] | None = None
    baseline: BaselineName = "AsIs"
    baselines: Mapping[BaselineName, Interval] = field(default_factory=dict)
    places: Sequence[int] | None = None
    published: Interval | None = None
    over_published: Interval | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    """One threshold: whether it holds, the comparison, and what would be enough if not."""

    met: bool
    words: str
    remedy: str


def certainty_of(goal: Goal | None) -> float:
    """Return how sure intervals must be."""
    return DEFAULT_CERTAINTY if goal is None else float(goal.certainty)


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
    checks = list(_check_all(goal, measured))
    words = ", ".join(("" if check.met else "MISSED ") + check.words for check in checks)
    words = f"{goal.metric} {words}, at {certainty_of(goal) * 100:g} % certainty"
    remedies = [check.remedy for check in checks if not check.met]
    return all(check.met for check in checks), "; ".join([words, *remedies])


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


def _check_all(goal: Goal, measured: Measurement) -> Iterator[_Check]:
    tuned, number = measured.tuned, measured.num_prompts
    is_loss = goal.metric in LOWER_IS_BETTER
    if goal.at_least is not None:
        words = f"{tuned.value:.3f}, lower bound {_floor(tuned.low)}"
        words = f"{words} (goal: at least {goal.at_least})"
        yield _check(tuned, float(goal.at_least), words, number)
    if goal.at_most is not None:
        words = f"{tuned.value:.3f}, upper bound {_ceil(tuned.high)} (goal: at most {goal.at_most})"
        yield _check(tuned.negated(), -float(goal.at_most), words, number)
    if goal.over_base is not None:
        better = measured.gain.negated() if is_loss else measured.gain
        base = measured.base
        words = (
            f"{better.value:+.3f} over {name_base(measured.baseline)} {base.value:.3f} "
            f"[{base.low:.3f}, {base.high:.3f}], "
            f"lower bound {_floor(better.low, sign='+')} (goal: at least {goal.over_base})"
        )
        yield _check(better, float(goal.over_base), words, number)
    if measured.over_trivial is not None and not is_loss:
        over = measured.over_trivial
        words = (
            f"{over.value:+.3f} over always giving the most frequent label "
            f"({measured.trivial:.3f}), lower bound {_floor(over.low, sign='+')} (must be above 0)"
        )
        check = _check(over, 2 * SLACK, words, number)
        least = count_of_gains(certainty_of(goal))
        remedy = (
            f"{check.remedy}; being better than one label shows only on held-out prompts with "
            f"another one, of which {least} right ones are the least"
        )
        yield replace(check, remedy=remedy)


def _check(score: Interval, wanted: float, words: str, num_prompts: int) -> _Check:
    """Tell whether the lower bound reaches what is wanted, and if not what would be enough."""
    if score.low >= wanted - SLACK:
        return _Check(met=True, words=words, remedy="")
    return _Check(met=False, words=words, remedy=what_decides(score, wanted, num_prompts))


def what_decides(score: Interval, wanted: float, num_prompts: int) -> str:
    """Say what would decide whether a score reaches what is wanted, where its lower bound misses.

    Args:
        score: The score, the greater the better.
        wanted: What the lower bound should reach.
        num_prompts: Independent prompts behind it.
    """
    if score.value <= wanted:
        return "the score itself misses, which no number of held-out prompts changes"
    total = count_to_decide(
        value=score.value,
        bound=score.low,
        threshold=wanted,
        number=num_prompts,
        at_limit=score.value == 1,
    )
    if total is None:
        return "no feasible number of held-out prompts would decide it"
    return (
        f"if the score stays, about {total - num_prompts:,} independent held-out prompts more "
        f"than these {num_prompts:,} would decide it"
    )


def _floor(bound: float, *, sign: str = "") -> str:
    # Rounded to the unfavourable side: 0.89995 is not shown as the 0.900 that it misses.
    return f"{math.floor(bound * 1000) / 1000 if math.isfinite(bound) else bound:{sign}.3f}"


def _ceil(bound: float) -> str:
    return f"{math.ceil(bound * 1000) / 1000 if math.isfinite(bound) else bound:.3f}"
