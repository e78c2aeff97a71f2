"""The edits of ``queueName`` and ``priorityClassName`` that Kueue can follow.

Kueue moves a Job to another queue only while it is suspended, and keeps every Job. It changes the
priority at any time, but gives none to a running Job that has none, and takes none back
(``sigs.k8s.io/kueue/pkg/controller/jobframework/validation.go``).

These are transition rules of the whole object, CEL only: they need the present status.
"""

from __future__ import annotations

from typing import Any

from finetune_api.rule import edit_rule


def _phase_in(*phases: str) -> str:
    return (
        "has(oldSelf.status) && has(oldSelf.status.phase)"
        f" && oldSelf.status.phase in {list(phases)}"
    )


_HAS_BEGUN = _phase_in("Training", "Evaluating", "Suspended")
_RUNS_ON = (
    f"{_phase_in('Training', 'Evaluating')} && !(has(self.spec.suspend) && self.spec.suspend)"
)

QUEUE_IS_KEPT = (
    "queueName cannot be removed: Kueue keeps every job. Name another queue, or delete the"
    " job and create it without one"
)
QUEUE_IS_LATE = (
    "queueName cannot be added once the job has begun to train: delete the job and create it with a"
    " queue"
)
QUEUE_OF_RUNNING = (
    "queueName cannot change while the job runs: Kueue moves only what waits. Set suspend to true"
    " in the same edit, and to false again once the phase is Suspended"
)
PRIORITY_IS_KEPT = (
    "priorityClassName cannot be removed: Kueue does not take a priority back. Name another class"
)
PRIORITY_OF_RUNNING = (
    "priorityClassName cannot be added while the job runs: Kueue changes the class of a running"
    " job, but gives none to one that has none. Set suspend to true in the same edit, and to false"
    " again once the phase is Suspended"
)


def edit_rules() -> list[dict[str, Any]]:
    """Return the validations of a FineTuneJob's schema root."""
    old, new = "has(oldSelf.spec.queueName)", "has(self.spec.queueName)"
    is_same = "oldSelf.spec.queueName == self.spec.queueName"
    had, has = "has(oldSelf.spec.priorityClassName)", "has(self.spec.priorityClassName)"
    return [
        edit_rule(f"!{old} || {new}", QUEUE_IS_KEPT, "queueName"),
        edit_rule(f"{old} || !{new} || !({_HAS_BEGUN})", QUEUE_IS_LATE, "queueName"),
        edit_rule(f"!{old} || !{new} || {is_same} || !({_RUNS_ON})", QUEUE_OF_RUNNING, "queueName"),
        edit_rule(f"!{had} || {has}", PRIORITY_IS_KEPT, "priorityClassName"),
        edit_rule(f"{had} || !{has} || !({_RUNS_ON})", PRIORITY_OF_RUNNING, "priorityClassName"),
    ]
