"""Measures what the gates of a job ask for, on the held-out rows and from other rooms."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from finetune_api.trainer import GateResult, ResolvedJob
from finetune_api.v1alpha1.gates import Gate
from finetune_api.v1alpha1.scoring import JUDGE_METRICS
from finetune_trainer.evaluate.answering import Comparison
from finetune_trainer.evaluate.gates import Found, Unmeasured, check_gates
from finetune_trainer.evaluate.measuring import compare_by
from finetune_trainer.evaluate.metrics.catalog import (
    LIKELIHOOD_METRICS,
    NO_SETTINGS,
    ROW_METRICS,
    Settings,
)
from finetune_trainer.evaluate.slices import describe_slice, take_judged, take_slice

_NOTHING_ELSE: Mapping[str, Found] = MappingProxyType({})


def judge_gates(
    job: ResolvedJob,
    comparison: Comparison,
    settings: Settings = NO_SETTINGS,
    *,
    others: Mapping[str, Found] = _NOTHING_ELSE,
) -> list[GateResult]:
    """Hold the job's gates against what both models said.

    Args:
        job: The effective job.
        comparison: What both models said.
        settings: What the job tells some metrics.
        others: What other rooms have measured, by the metric's name; a gate on what is not there is
            missed.

    Raises:
        UserError: A metric of the user's own, or a pattern of theirs, failed.
    """
    known: dict[str, Found | Unmeasured] = {}

    def look_up(gate: Gate) -> Found | Unmeasured:
        if gate.metric not in ROW_METRICS:
            return others.get(gate.metric) or Unmeasured(why="nothing measured it in this run")
        key = f"{gate.metric} {describe_slice(gate.slice)}"
        if key not in known:
            known[key] = _measure(job, comparison, gate, settings)
        return known[key]

    return check_gates(job.spec.evaluation.gates, look_up)


def _measure(
    job: ResolvedJob, comparison: Comparison, gate: Gate, settings: Settings
) -> Found | Unmeasured:
    if gate.metric in comparison.unmeasured:
        return Unmeasured(why=comparison.unmeasured[gate.metric])
    part = take_slice(comparison, gate.slice)
    if gate.metric in JUDGE_METRICS and not take_judged(part, gate.metric)[1]:
        return Unmeasured(why="the judge gave no verdict there")
    is_likelihood = gate.metric in LIKELIHOOD_METRICS
    if not (part.questions if is_likelihood else part.asked):
        return Unmeasured(
            why=f"none of the {len(comparison.questions)} held-out prompts that were asked belongs "
            "there"
            if gate.slice
            else "no held-out row has an answer to compare"
        )
    compared, num_prompts, baseline = compare_by(job, part, gate.metric, settings)
    return Found(compared=compared, num_prompts=num_prompts, baseline=baseline)
