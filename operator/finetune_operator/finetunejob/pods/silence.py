"""Whether a running job reports, and what is said if it does not. It runs on all the same.

A hang is found in the pod and ends it; what is told here is seen from afar, and may as well be a
network that lets no report through.
"""

from __future__ import annotations

from finetune_operator.finetunejob.state.stages import StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import Reason, parse_timestamp, timestamp

SILENCE_SECONDS = 120.0
"""A stage that runs for so long without a progress push is told to be silent."""

STALE_SECONDS = 900.0
"""A report that is so old says nothing of the present. The pod itself takes its training to hang
after 600 seconds at the earliest."""


def judge_reports(step: Step, view: StageView) -> tuple[Reason, str]:
    """Return the reason and the words of a training that runs, by what it reports."""
    if not step.config.progress_url:
        return Reason.RUNNING, "Training."
    progress = (step.observed.job.get("status") or {}).get("progress") or {}
    last = parse_timestamp(progress.get("lastHeartbeatTime"))
    if last is None:
        silence = SILENCE_SECONDS - view.active_seconds
        if silence <= 0:
            return Reason.RUNNING, f"Training. {silence_text(step)}"
        step.look_again(silence)
        return Reason.RUNNING, "Training."
    began = view.youngest_began
    quiet = (step.now - (max(last, began) if began else last)).total_seconds()
    if quiet < STALE_SECONDS:
        step.look_again(STALE_SECONDS - quiet)
        return Reason.RUNNING, "Training."
    done, total = progress.get("step"), progress.get("totalSteps")
    where = f", at step {done} of {total}" if done is not None else ""
    return Reason.NO_RECENT_PROGRESS, (
        f"Training, but the last progress report came at {timestamp(last)}{where}. Either the pods"
        f" cannot reach {step.config.progress_url} any more, or they make no steps: then they end"
        " by themselves after trainer.stepTimeoutSeconds, and their message says where they hung."
    )


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
