"""Bounds the ends that cost no retry, as long as the stage makes no new step.

A node that is short of disk evicts every pod. A controller may delete a Job each time it is made.
Such ends are not the job's fault and use up no retry. But a run without new steps holds GPUs for
nothing. ``status.stages[].fruitless`` has the count, so that it survives pods, pauses and restarts
of the operator.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias

from finetune_api.protocol.trainer import FailureClass, Stage
from finetune_operator.finetunejob.pods.rounds import START_SECONDS
from finetune_operator.finetunejob.state.draft import JobDraft
from finetune_operator.finetunejob.state.failure import Cause
from finetune_operator.finetunejob.state.stages import StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import timestamp

Kind: TypeAlias = Literal["evictions", "deletions", "others"]
"""Whose doing an end is: the node's kubelet's, of whoever deletes the Job, or of others."""

BY_KUBELET = "TerminationByKubelet"
"""Reason of ``DisruptionTarget``: the node is short of disk or memory, or shuts down."""
OTHERS_FACTOR = 10
"""Preemptions, drains and lost nodes are decided elsewhere, and may well come often."""

_REMEDIES: dict[Kind, str] = {
    "evictions": (
        "Are these nodes short of disk or memory (kubectl describe node)? Have"
        " config.scratchRequest raised, or raise spec.resources.memory, so that only nodes with"
        " room are chosen."
    ),
    "deletions": "Who deletes it? The API server's audit log tells.",
    "others": (
        "Give the job a higher priority (spec.priorityClassName, podTemplate.priorityClassName) or"
        " a queue with quota of its own, or nodes that stay."
    ),
}


def kind_of(reason: str) -> Kind:
    """Return whose doing the end of a pod is, by the reason of its disruption."""
    return "evictions" if reason == BY_KUBELET else "others"


def count_fruitless(
    step: Step, view: StageView, cause: Cause, kind: Kind, *, reached: int = 0, seconds: float = 0.0
) -> tuple[int, Cause | None]:
    """Count an end that costs no retry; return how many in a row, and why the stage is given up.

    Args:
        step: The plan so far.
        view: The stage; there is a record of it.
        cause: What ended it.
        kind: Whose doing it is.
        reached: The step it had come to by its own words.
        seconds: How long the attempt had run.
    """
    entry = step.draft.stage(view.stage)
    assert entry is not None
    if view.stage is Stage.TRAIN:
        reached = max(reached, step.observed.ledger.step)
    told: dict[str, Any] = dict(entry.get("fruitless") or {"step": 0})
    if reached > told["step"] or seconds >= START_SECONDS:
        entry["fruitless"] = {"step": max(reached, told["step"])}
        return 0, None
    told[kind] = int(told.get(kind) or 0) + 1
    entry["fruitless"] = told
    limit = step.config.max_fruitless_evictions * (OTHERS_FACTOR if kind == "others" else 1)
    if told[kind] <= limit:
        return told[kind], None
    where = ", ".join(_nodes_of(step.draft, view, cause))
    message = (
        f"{told[kind]} times in a row the stage ended with {cause.reason}, which costs no retry,"
        f" before a new step was made (step {told['step']})"
        f"{f', last on {where}' if where else ''}; more than {limit} end the job"
        f" (maxFruitlessEvictions). {_REMEDIES[kind]} The last one: {cause.message}"
    )
    given_up = Cause(
        failure_class=cause.failure_class,
        reason=cause.reason,
        message=message,
        exit_code=cause.exit_code,
        pod=cause.pod,
        node=cause.node,
        time=cause.time or timestamp(step.now),
    )
    return told[kind], given_up


def evicted_by_queue(reason: str, message: str, now: datetime) -> Cause:
    """Return the cause of an end by Kueue."""
    return Cause(
        failure_class=FailureClass.EVICTED, reason=reason, message=message, time=timestamp(now)
    )


def _nodes_of(draft: JobDraft, view: StageView, cause: Cause) -> list[str]:
    history = (draft.get("attempts") or {}).get("history") or ()
    nodes = [each.get("node") for each in history if each.get("stage") == view.stage.value]
    return list(dict.fromkeys(node for node in [*reversed(nodes), cause.node] if node))[:5]
