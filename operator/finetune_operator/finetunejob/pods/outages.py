"""Outages: a stage that has run before and cannot continue releases its nodes and retries later.

A registry, a Secret, object storage or a node's device plugin may be away for an hour. Such an
outage uses no retry, the stage holds no GPU meanwhile, and the pauses grow. The record is
``status.stages[].outage``, so a restart of the operator loses nothing. An outage is over once a new
step is made. Where steps are not known, it is over once a container has run for some time.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.protocol.trainer import FailureClass, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.pods.pausing import release_actions
from finetune_operator.finetunejob.state.draft import JobDraft
from finetune_operator.finetunejob.state.failure import Cause
from finetune_operator.finetunejob.state.observed import Observed
from finetune_operator.finetunejob.state.stages import TRAITS, StageState, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import Reason, parse_timestamp, timestamp

FIRST_SECONDS = 60.0
"""First pause of a stage without nodes; each further pause is twice as long."""
LONGEST_SECONDS = 3600.0
RUNNING_SECONDS = 600.0
"""A container that runs for so long has got past its start."""

_OF_THE_STORE = frozenset(
    {
        "AccessDenied",
        "BucketFull",
        "ClockSkew",
        "CredentialsExpired",
        "CredentialsMissing",
        "DamagedInTransit",
        "StorageFailed",
        "StorageStalled",
        "Unreachable",
    }
)
"""Reasons of StorageError that may pass: the store is away, or somebody has to mend it."""


def has_run(draft: JobDraft, num_steps: int, view: StageView) -> bool:
    """Return whether a container of the stage, or of training, has run before."""
    entries = [draft.stage(stage) or {} for stage in (view.stage, Stage.TRAIN)]
    return any(entry.get("firstRunTime") for entry in entries) or num_steps > 0


def is_outage(draft: JobDraft, num_steps: int, cause: Cause) -> bool:
    """Return whether the end of a pod, after steps were made, is nobody's fault and may pass."""
    if not (num_steps or draft.is_done(Stage.TRAIN)):
        return False
    if cause.failure_class is FailureClass.STORAGE_ERROR:
        return cause.reason in _OF_THE_STORE
    # The node has refused it, or an init container that a webhook adds has failed.
    return (
        cause.failure_class is FailureClass.UNSCHEDULABLE or cause.reason == "InitContainerFailed"
    )


def wait_out(step: Step, view: StageView, cause: Cause) -> Cause | None:
    """Release the nodes of a stage for a pause; return why the stage ends if this lasts too long.

    Args:
        step: The plan so far.
        view: The stage; there is a record of it.
        cause: Why it does not go on.
    """
    entry = step.draft.stage(view.stage)
    assert entry is not None
    reached = _reached(step.observed, view)
    told: dict[str, Any] = entry.get("outage") or {}
    if not told or reached > told.get("step", 0):
        began = parse_timestamp(cause.time) or step.now
        told = {"since": timestamp(min(began, step.now)), "step": reached}
    since = parse_timestamp(told["since"]) or step.now
    limit = step.config.outage_deadline_seconds
    if (step.now - since).total_seconds() - int(told.get("heldSeconds") or 0) >= limit:
        words = f"The outage began at {told['since']} and lasts longer than outageDeadlineSeconds"
        return replace(cause, message=f"{cause.message.rstrip('. ')}. {words} ({limit}).")
    releases = int(told.get("releases") or 0)
    seconds = min(FIRST_SECONDS * 2.0**releases, LONGEST_SECONDS)
    due = timestamp(step.now + timedelta(seconds=seconds))
    entry["outage"] = {**told, "releases": releases + 1, "retryTime": due}
    step.draft.note_failure(cause, view.stage)
    message = (
        f"{cause.reason}: {cause.message.rstrip('. ')}. The stage has released its nodes and tries"
        f" again at {due}. This uses no retry. The outage began at {told['since']} and ends the job"
        f" after {limit} s (outageDeadlineSeconds), not counting time suspended or queued."
    )
    step.draft.announce(Reason.OUTAGE, f"{view.stage.value}: {message}", warning=True)
    step.draft.conditions.set(TRAITS[view.stage].condition, False, Reason.OUTAGE, message)
    _release(step, view, seconds)
    return None


def is_waiting_out(step: Step, spec: FineTuneJobSpec, view: StageView) -> bool:
    """Keep a stage from its nodes until it tries again; return whether it waits for that.

    Whoever suspends the job ends the wait: its resume is the next try. The time in which it is
    suspended, or waits for quota after that, is no part of the outage: nothing was tried.
    """
    entry = step.draft.stage(view.stage)
    told: dict[str, Any] = (entry or {}).get("outage") or {}
    if entry is None or not told:
        return False
    due, held = (parse_timestamp(told.get(key)) for key in ("retryTime", "heldTime"))
    if due is not None and due > step.now and not spec.suspend:
        _release(step, view, (due - step.now).total_seconds())
        return True
    told = {key: value for key, value in told.items() if key not in ("retryTime", "heldTime")}
    if spec.suspend or view.state is StageState.SUSPENDED:
        told["heldTime"] = timestamp(held or min(due or step.now, step.now))
    elif held is not None:
        told["heldSeconds"] = _seconds_held(told, held, step.now)
    entry["outage"] = told
    return False


def is_released(draft: JobDraft, view: StageView) -> bool:
    """Return whether a stage has released its nodes and waits for its next attempt."""
    told = (draft.stage(view.stage) or {}).get("outage") or {}
    due = parse_timestamp(told.get("retryTime"))
    return due is not None and due > draft.now


def note_recovery(step: Step, view: StageView) -> None:
    """End the record of an outage that is over."""
    entry = step.draft.stage(view.stage)
    told = (entry or {}).get("outage")
    if entry is None or not told:
        return
    reached, began = _reached(step.observed, view), view.youngest_began
    if reached > told.get("step", 0):
        del entry["outage"]
    elif began is not None and not (reached and _reports(step.observed, view, began)):
        left = RUNNING_SECONDS - (step.now - began).total_seconds()
        if left > 0:
            step.look_again(left)
        else:
            del entry["outage"]


def _reached(observed: Observed, view: StageView) -> int:
    return observed.ledger.step if view.stage is Stage.TRAIN else 0


def _reports(observed: Observed, view: StageView, began: datetime) -> bool:
    """Return whether a container that began then tells of its steps: pushes may be blocked."""
    progress = (observed.job.get("status") or {}).get("progress") or {}
    last = parse_timestamp(progress.get("lastHeartbeatTime"))
    return progress.get("stage") == view.stage.value and last is not None and last > began


def _seconds_held(told: dict[str, Any], since: datetime, now: datetime) -> int:
    """Return how long a stage was held during an outage, with the hold that is over now."""
    return int(told.get("heldSeconds") or 0) + max(0, int((now - since).total_seconds()))


def _release(step: Step, view: StageView, seconds: float) -> None:
    step.then += release_actions(step.observed, [view])
    step.look_again(seconds)
