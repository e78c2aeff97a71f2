"""The allowed edits of ``holdAfter`` and ``prune``: each changes in one direction only.

Only creation can set a hold, because a released job may have been published. A pruned job has
ended. These are transition rules of the whole object, CEL only.
"""

from __future__ import annotations

from typing import Any

from finetune_api.rule import edit_rule

HOLD_IS_NOT_ADDED = (
    "holdAfter can only be removed: a job that was created without it may be evaluated by now. To"
    " keep it from going on, set suspend to true, or create a new job with holdAfter"
)
PRUNE_IS_KEPT = (
    "prune cannot be taken back: the job ends. Its checkpoints stay, and a new job can begin from"
    " them: initFrom, or finetune retry"
)


def selection_edit_rules() -> list[dict[str, Any]]:
    """Return the validations of a FineTuneJob's schema root."""
    was_held = "has(oldSelf.spec.holdAfter) && oldSelf.spec.holdAfter == self.spec.holdAfter"
    was_pruned = "has(oldSelf.spec.prune) && oldSelf.spec.prune"
    is_pruned = "has(self.spec.prune) && self.spec.prune"
    return [
        edit_rule(f"!has(self.spec.holdAfter) || ({was_held})", HOLD_IS_NOT_ADDED, "holdAfter"),
        edit_rule(f"!({was_pruned}) || ({is_pruned})", PRUNE_IS_KEPT, "prune"),
    ]
