"""The verdict in a sentence, before everything else: number, bound, and what would be enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_api.protocol.evaluation_result import EvaluateResult, GateResult, Score
from finetune_api.protocol.publication import Publication
from finetune_api.protocol.trainer import LOCAL_UID_PREFIX, ResolvedJob
from finetune_api.v1alpha1.evaluation.scoring import BASELINE_WORDS
from finetune_trainer.verdict.figures import high_text, low_text
from finetune_trainer.verdict.goal import DIGITS, Criterion, certainty_of

NOTHING_PUBLISHED = "nothing is published"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One thing that was decided.

    Attributes:
        is_met: None where nothing was asked.
        strong: The decision.
        words: What it rests on.
        rows: The same as cells of a table: what is judged, verdict, value, bound, threshold.
        remedies: What would be enough, of what is missed.
    """

    is_met: bool | None
    strong: str
    words: str
    rows: Sequence[Sequence[str]] = ()
    remedies: Sequence[str] = ()


def find_verdicts(
    job: ResolvedJob, result: EvaluateResult, criteria: Sequence[Criterion] = ()
) -> list[Verdict]:
    """Return goal, gates, what to know beside them, and what comes next.

    Args:
        job: The job.
        result: What its evaluation found.
        criteria: What its goal asks, one by one.
    """
    remarks = [Verdict(is_met=None, strong="", words=f"{words}.") for words in result.remarks]
    goal, next_step = _of_goal(job, result, criteria), _what_comes(job, result)
    return [goal, *_of_gates(result.gates), *remarks, next_step]


def is_local_run(job: ResolvedJob) -> bool:
    """Whether ``finetune run`` made it, on a machine that knows no cluster."""
    return job.uid.startswith(LOCAL_UID_PREFIX)


def _of_goal(job: ResolvedJob, result: EvaluateResult, criteria: Sequence[Criterion]) -> Verdict:
    words = result.goal_message
    if result.goal_met is None:
        told = _score_words(result.scores[0]) if result.scores else ""
        return Verdict(is_met=None, strong="The job set no goal.", words=told)
    strong = "Goal met." if result.goal_met else f"Goal missed, {NOTHING_PUBLISHED}."
    goal = job.spec.goal
    # Too few prompts, or too many evaluations, withhold a verdict whatever the criteria say.
    is_withheld = goal is not None and not words.startswith(f"{goal.metric} ")
    if goal is None or not criteria or is_withheld:
        return Verdict(is_met=result.goal_met, strong=strong, words=f"{words}.")
    certainty = certainty_of(goal) * 100
    return Verdict(
        is_met=result.goal_met,
        strong=strong,
        words=f"By {goal.metric}, at {certainty:g} % certainty. "
        "Each bound must reach what is asked.",
        rows=[
            [each.what, "met" if each.met else "MISSED", each.measured, each.bound, each.asked]
            for each in criteria
        ],
        remedies=[each.remedy for each in criteria if each.remedy],
    )


def _score_words(score: Score) -> str:
    """Return a score beside the base model's, in a sentence."""
    asked = f" {BASELINE_WORDS[score.baseline]}" if score.baseline else ""
    gain = f"{float(score.tuned) - float(score.base):+.3f}"
    tuned, base = float(score.tuned), float(score.base)
    return (
        f"{score.name} {tuned:.3f}{_bounds(score.tuned_low, score.tuned_high)}, base model{asked} "
        f"{base:.3f}{_bounds(score.base_low, score.base_high)}: "
        f"{gain}{_bounds(score.delta_low, score.delta_high)}."
    )


def _bounds(low: str, high: str) -> str:
    if not low:
        return ""
    return f" [{low_text(float(low), digits=DIGITS)}, {high_text(float(high), digits=DIGITS)}]"


def _of_gates(gates: list[GateResult]) -> Iterator[Verdict]:
    if not gates:
        return
    missed = [gate for gate in gates if not gate.met and gate.severity == "Block"]
    num_met = sum(gate.met and gate.applicable for gate in gates)
    num_without = sum(not gate.applicable for gate in gates)
    without = f", {num_without} not applicable" if num_without else ""
    num_warned = sum(not gate.met and gate.severity == "Warn" for gate in gates)
    warned = f"; {num_warned} missed as a warning" if num_warned else ""
    if not missed:
        yield Verdict(
            is_met=True,
            strong="No gate prevents publication.",
            words=f"{num_met} of {len(gates)} met{without}{warned}.",
        )
        return
    yield Verdict(
        is_met=False,
        strong=f"{len(missed)} of {len(gates)} gates missed, {NOTHING_PUBLISHED}.",
        words="; ".join(f"{gate.name}: {gate.message}" for gate in missed) + ".",
    )


def _what_comes(job: ResolvedJob, result: EvaluateResult) -> Verdict:
    """Say what follows. The page is written before it: it knows no number of a version."""
    name = f"{job.namespace}/{job.name}"
    if result.is_missed:
        which = "FILE" if is_local_run(job) else f"{job.name} -n {job.namespace}"
        return Verdict(
            is_met=None,
            strong="The candidate is kept.",
            words="Its files stay where the lineage below says. A person may still publish it "
            f"by a recorded decision: finetune publish {which} --override --reason TEXT.",
        )
    if job.publication is Publication.AT_ONCE:
        return Verdict(
            is_met=None, strong="It is published", words=f"as the next version of {name}."
        )
    return Verdict(
        is_met=None,
        strong="Publication waits for people.",
        words=f"It becomes the next version of {name} once they have"
        f" {'reviewed' if job.publication is Publication.AFTER_REVIEW else 'approved'} it.",
    )
