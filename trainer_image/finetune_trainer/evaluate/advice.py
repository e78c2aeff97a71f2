"""Says whether prompting alone reaches what a job asks of its tuned model. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.scoring import (
    BASELINE_WORDS,
    JUDGE_METRICS,
    LOWER_IS_BETTER,
    UNBOUNDED_METRICS,
    BaselineName,
)
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.catalog import NO_SETTINGS, Settings
from finetune_trainer.evaluate.scores.measuring import measure_one
from finetune_trainer.evaluate.scores.prompt_choice import best_of, ways_of
from finetune_trainer.statistics.confidence import Interval
from finetune_trainer.statistics.needed import count_to_decide
from finetune_trainer.verdict.figures import (
    compare_figures,
    figure_text,
    high_text,
    low_text,
)
from finetune_trainer.verdict.goal import (
    DIGITS,
    Measurement,
    certainty_of,
    check_goal,
    thresholds_of,
)
from finetune_trainer.verdict.hypotheses import of_goal


class Verdict(StrEnum):
    """What is known of prompting."""

    MET = "Met"
    """It reaches the goal, with the certainty that the goal asks for."""
    NOT_MET = "NotMet"
    """It does not, with the same certainty."""
    UNDECIDED = "Undecided"
    """The held-out rows are too few to say."""
    NO_THRESHOLD = "NoThreshold"
    """The goal compares with the base alone, so the base cannot reach it."""
    NO_GOAL = "NoGoal"


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What to do before anything is trained.

    Attributes:
        verdict: Whether prompting reaches the goal.
        sentence: The same with the number and its bound.
        suggestions: What to do next.
        asked: How the base came to its best score of the goal's metric; None without a goal.
    """

    verdict: Verdict
    sentence: str
    suggestions: tuple[str, ...]
    asked: BaselineName | None = None


def advise(job: ResolvedJob, comparison: Comparison, settings: Settings = NO_SETTINGS) -> Advice:
    """Judge each way of asking as if it were the tuned model.

    The best of several on the same rows flatters itself, which counts against the base in an
    evaluation and for it here. So every way is judged with what is left of the doubt divided by
    their number (Bonferroni): that one of them seems to reach the goal and none does is as unlikely
    as the goal wants it.

    Args:
        job: The effective job.
        comparison: What the base model said; its tuned side is not looked at.
        settings: What the job tells some metrics.
    """
    goal = job.spec.goal
    if goal is None:
        return Advice(
            verdict=Verdict.NO_GOAL,
            sentence="The job has no goal, so there is nothing that prompting could reach.",
            suggestions=("set goal.metric with atLeast above what the base reaches",),
        )
    if goal.metric in JUDGE_METRICS:
        return Advice(
            verdict=Verdict.NO_THRESHOLD,
            sentence=(
                f"The goal's metric {goal.metric} is a judge's, who looks at base and tuned model "
                "together: nothing is known of it before training."
            ),
            suggestions=("look at the base model's other scores, and train",),
        )
    ways = ways_of(goal.metric, comparison)
    doubt = (1 - float(goal.certainty)) / len(ways)
    own = goal.model_copy(update={"certainty": f"{1 - doubt:.6f}", "over_base": None})
    spec = job.spec.model_copy(update={"goal": own})
    stricter = job.model_copy(update={"spec": spec})
    measured = {
        way: measure_one(
            stricter,
            replace(comparison, tuned=said, prompted=None, likelihood=None),
            goal.metric,
            settings,
        )
        for way, said in ways.items()
    }
    best = best_of(goal.metric, {way: each.tuned.value for way, each in measured.items()})
    if own.at_least is None and own.at_most is None:
        return _without_threshold(goal, best, measured[best])
    met = [way for way, each in measured.items() if check_goal(own, each)[0]]
    chosen = best if best in met or not met else met[0]
    verdict = _judge(own, [each.tuned for each in measured.values()], is_met=bool(met))
    words = _sentence(goal, chosen, measured[chosen], num_ways=len(ways))
    more = _count_more(own, measured[chosen]) if verdict is Verdict.UNDECIDED else ()
    return Advice(
        verdict=verdict,
        sentence=f"{_OPENINGS[verdict]}: {words}.",
        suggestions=(*_SUGGESTIONS[verdict], *more, *_reach(goal, measured[best])),
        asked=chosen,
    )


_OPENINGS = {
    Verdict.MET: "Prompting already meets the goal",
    Verdict.NOT_MET: "Prompting does not meet the goal",
    Verdict.UNDECIDED: "Whether prompting meets the goal is not decided",
}
_SUGGESTIONS = {
    Verdict.MET: (
        "use the base model with this prompt, and train only where a shorter prompt, a smaller "
        "model or its speed is worth it",
        "to train all the same, raise the goal above what the prompt reaches",
    ),
    Verdict.NOT_MET: ("training has something to gain: finetune run",),
    Verdict.UNDECIDED: ("hold out more rows, or train and let the evaluation compare the two",),
}


def _judge(goal: Goal, intervals: Sequence[Interval], *, is_met: bool) -> Verdict:
    """Tell whether the far ends of all intervals miss the goal as well."""
    if is_met:
        return Verdict.MET
    asked = of_goal(goal)
    misses = all(
        any(turned.high < wanted for turned, wanted in (each.turn(score) for each in asked))
        for score in intervals
    )
    return Verdict.NOT_MET if misses else Verdict.UNDECIDED


def _sentence(goal: Goal, way: BaselineName, measured: Measurement, *, num_ways: int) -> str:
    base = measured.tuned
    asked = [f"at least {goal.at_least}"] if goal.at_least is not None else []
    asked += [f"at most {goal.at_most}"] if goal.at_most is not None else []
    asked += [
        f"more than the {rival.score:.3f} of {rival.what}{f' by {rival.by}' if rival.by else ''}"
        for rival in measured.rivals
        if rival.is_missed(certainty_of(goal))
    ]
    thresholds, _ = thresholds_of(goal)
    over_all = f" over all {num_ways} ways of asking" if num_ways > 1 else ""
    return (
        f"{goal.metric} of the base {BASELINE_WORDS[way]} is {_words_of(base, *thresholds)}, "
        f"the goal asks for {' and '.join(asked)} "
        f"({float(goal.certainty) * 100:g} % certainty{over_all})"
    )


def _words_of(score: Interval, *asked: float) -> str:
    low = low_text(score.low, *asked, digits=DIGITS)
    high = high_text(score.high, *asked, digits=DIGITS)
    return f"{figure_text(score.value, *asked, digits=DIGITS)} [{low}, {high}]"


def _count_more(goal: Goal, measured: Measurement) -> tuple[str, ...]:
    """Say how many more held-out prompts would decide it, if the score stays as it is."""
    hypothesis = of_goal(goal)[0]
    score, threshold = hypothesis.turn(measured.tuned)
    if compare_figures(score.value, threshold) <= 0:
        return ()
    total = count_to_decide(
        value=score.value,
        bound=score.low,
        threshold=threshold,
        number=measured.num_prompts,
        at_limit=hypothesis.is_at_limit(measured.tuned.value),
    )
    if total is None:
        return ()
    return (
        f"about {total - measured.num_prompts:,} more held-out prompts would show that it does, if "
        "the score stays",
    )


def _without_threshold(goal: Goal, way: BaselineName, measured: Measurement) -> Advice:
    base = measured.tuned
    return Advice(
        verdict=Verdict.NO_THRESHOLD,
        sentence=(
            f"The goal compares with the base alone: {goal.metric} of the base "
            f"{BASELINE_WORDS[way]} is {_words_of(base)}."
        ),
        suggestions=(*_reach(goal, measured), "add goal.atLeast to say what is good enough"),
        asked=way,
    )


def _reach(goal: Goal, measured: Measurement) -> tuple[str, ...]:
    """Say what ``overBase`` asks of the tuned model, now that the base is known."""
    if goal.over_base is None:
        return ()
    sign = -1 if goal.metric in LOWER_IS_BETTER else 1
    wanted = measured.tuned.value + sign * float(goal.over_base)
    if goal.metric not in UNBOUNDED_METRICS and wanted > 1:
        return (
            f"goal.overBase {goal.over_base} cannot be reached: the base is at "
            f"{measured.tuned.value:.3f}, and the best possible score is 1",
        )
    return (
        f"goal.overBase {goal.over_base} asks the tuned model for about {wanted:.3f}, and for more "
        "until its lower bound holds",
    )
