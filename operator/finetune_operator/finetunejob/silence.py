"""Whether a running job reports, and what is said if it does not. It runs on all the same."""

from __future__ import annotations

from finetune_operator.finetunejob.stages import StageView
from finetune_operator.finetunejob.step import Step

SILENCE_SECONDS = 120.0
"""A stage that runs for so long without a progress push is told to be silent."""


def is_silent(step: Step, view: StageView) -> bool:
    """Return whether a stage should have reported by now and never did."""
    if not step.config.progress_url or has_heartbeat(step):
        return False
    if view.active_seconds < SILENCE_SECONDS:
        step.look_again(SILENCE_SECONDS - view.active_seconds)
        return False
    return True


def has_heartbeat(step: Step) -> bool:
    """Return whether progress was ever received."""
    progress = (step.observed.job.get("status") or {}).get("progress") or {}
    return bool(progress.get("lastHeartbeatTime"))


def silence_text(step: Step) -> str:
    """Return what may be the reason, in words."""
    return (
        f"No progress was received: pods may not reach {step.config.progress_url}"
        " (NetworkPolicy?). The job is not affected."
    )
