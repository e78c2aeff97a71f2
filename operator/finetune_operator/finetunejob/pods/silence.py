"""Whether a running job reports its progress. A job that does not runs on.

The pod itself detects a hang and ends. A missing report may also be lost in the network.
"""

from __future__ import annotations

from typing import Any

from finetune_operator.finetunejob.state.stages import StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import Reason, parse_timestamp, timestamp

Object = dict[str, Any]

SILENCE_SECONDS = 120.0
"""Running time without a progress push after which the condition says so."""

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
            return Reason.RUNNING, f"Training. {silence_text(step.config.progress_url)}"
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


def has_heartbeat(job: Object) -> bool:
    """Return whether progress of a FineTuneJob was ever received."""
    progress = (job.get("status") or {}).get("progress") or {}
    return bool(progress.get("lastHeartbeatTime"))


def silence_text(progress_url: str) -> str:
    """Return why no progress may arrive, in words."""
    return (
        f"No progress was received: pods may not reach {progress_url}"
        " (NetworkPolicy?). The job is not affected."
    )
