"""Holds goal and gates of a job against what was measured, on the held-out rows and elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from finetune_api.protocol.evaluation_result import GateResult, PublishedVersion
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.scoring import JUDGE_METRICS
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.catalog import (
    NO_SETTINGS,
    ROW_METRICS,
    Settings,
)
from finetune_trainer.evaluate.scores.constants import tests_a_level
from finetune_trainer.evaluate.scores.measuring import compare_by, compare_published, find_rivals
from finetune_trainer.evaluate.scores.slices import take_judged, take_slice
from finetune_trainer.verdict.gates import (
    Found,
    Inapplicable,
    Standing,
    Unmeasured,
    check_gates,
)
from finetune_trainer.verdict.goal import (
    Criterion,
    Measurement,
    check_evidence,
    check_goal,
    find_criteria,
)

_NOTHING_ELSE: Mapping[str, Standing] = MappingProxyType({})


def judge_goal(
    spec: FineTuneJobSpec, comparison: Comparison, measured: Mapping[str, Measurement]
) -> tuple[bool | None, str]:
    """Hold the job's goal, and ``evaluation.minPrompts``, against what both models said.

    Args:
        spec: The job's spec.
        comparison: What both models said.
        measured: What :func:`score_all` made of it.

    Returns:
        Whether the goal is met (None without one), and why. One that was not measured is missed.
    """
    goal, number = spec.goal, count_scored(spec.goal, comparison)
    met: bool | None = None
    words = "the job has no goal"
    if goal is not None and goal.metric in comparison.unmeasured:
        met = False
        words = f"MISSED {goal.metric} was not measured: {comparison.unmeasured[goal.metric]}"
    elif goal is not None:
        found = measured[goal.metric]
        met, words = check_goal(goal, found)
        number = number if found.places is None else len(found.places)
    return check_evidence(met, words, num_prompts=number, min_prompts=spec.evaluation.min_prompts)


def list_criteria(goal: Goal | None, measured: Mapping[str, Measurement]) -> list[Criterion]:
    """Return what the goal asks, one by one; empty without a goal, or where it is not measured."""
    found = measured.get(goal.metric) if goal is not None else None
    return [] if goal is None or found is None else find_criteria(goal, found)


def count_scored(goal: Goal | None, comparison: Comparison) -> int:
    """Return how many held-out questions the goal's metric can score; without a goal all count."""
    return len(comparison.questions if goal is None else comparison.scored_by(goal.metric))


def judge_gates(
    job: ResolvedJob,
    comparison: Comparison,
    settings: Settings = NO_SETTINGS,
    *,
    others: Mapping[str, Standing] = _NOTHING_ELSE,
    published: PublishedVersion | None = None,
) -> list[GateResult]:
    """Hold the job's gates against what both models said.

    Args:
        job: The effective job.
        comparison: What both models said.
        settings: What the job tells some metrics.
        others: What other rooms have measured, or why not, by the metric's name; a gate on what is
            not there is missed.
        published: The published version; None where nobody looked for it.

    Raises:
        UserError: A metric of the user's own, or a pattern of theirs, failed.
    """
    known: dict[str, Standing] = {}  # a label and a column may be called alike: by all fields

    def look_up(gate: Gate) -> Standing:
        if gate.metric not in ROW_METRICS:
            return others.get(gate.metric) or Unmeasured(why="nothing measured it in this run")
        over_published = gate.over_published is not None
        key = f"{over_published} {tests_a_level(gate)} {gate.metric} {gate.slice!r}"
        if key not in known:
            known[key] = (
                _measure_published(job, comparison, gate, settings, published)
                if over_published
                else _measure(job, comparison, gate, settings)
            )
        return known[key]

    return check_gates(job.spec.evaluation.gates, look_up)


def _measure(
    job: ResolvedJob, comparison: Comparison, gate: Gate, settings: Settings
) -> Found | Unmeasured:
    part = _take_part(comparison, gate)
    if isinstance(part, Unmeasured):
        return part
    compared, num_prompts, baseline = compare_by(job, part, gate.metric, settings)
    return Found(
        compared=compared,
        num_prompts=num_prompts,
        baseline=baseline,
        rivals=find_rivals(job, part, gate.metric, settings, whole=comparison)
        if tests_a_level(gate)
        else (),
    )


def _measure_published(
    job: ResolvedJob,
    comparison: Comparison,
    gate: Gate,
    settings: Settings,
    published: PublishedVersion | None,
) -> Standing:
    if published is None:
        return Unmeasured(why="nobody looked for a published version")
    if published.version is None:
        return Inapplicable(why=f"nothing is published as {job.namespace}/{job.published_name} yet")
    if published.problem:
        return Unmeasured(why=f"version {published.version}: {published.problem}")
    if gate.metric in JUDGE_METRICS:
        return Unmeasured(why="the judge compares base and tuned model alone: use overBase")
    part = _take_part(comparison, gate)
    if isinstance(part, Unmeasured):
        return part
    found = compare_published(job, part, gate.metric, settings)
    if found is None:
        return Unmeasured(
            why=f"version {published.version} has another chat format, in which other tokens "
            "count: compare answers, as by exactMatch or rougeL"
        )
    compared, num_prompts = found
    return Found(
        compared=compared,
        num_prompts=num_prompts,
        version=published.version,
        rivals=find_rivals(job, part, gate.metric, settings, whole=comparison)
        if tests_a_level(gate)
        else (),
    )


def _take_part(comparison: Comparison, gate: Gate) -> Comparison | Unmeasured:
    """Return what was said to the questions that a gate looks at."""
    if gate.metric in comparison.unmeasured:
        return Unmeasured(why=comparison.unmeasured[gate.metric])
    part = take_slice(comparison, gate.slice)
    if gate.metric in JUDGE_METRICS and not take_judged(part, gate.metric)[1]:
        return Unmeasured(why="the judge gave no verdict there")
    if not part.scored_by(gate.metric):
        return Unmeasured(
            why=f"none of the {len(comparison.questions)} held-out prompts that were asked belongs "
            "there"
            if gate.slice
            else "no held-out row has an answer to compare"
        )
    return part
