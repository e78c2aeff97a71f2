"""A Job that is accepted and whose pods are not: a quota, Pod Security, a policy on pods.

The Job controller asks again at least once a minute, and tells of it in Events of the Job alone.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from finetune_operator.finetunejob.state.actions import LookUpWarnings
from finetune_operator.finetunejob.state.stages import TRAITS, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.finetunejob.state.trimmed import container_of
from finetune_operator.status.conditions import Reason, parse_timestamp

CREATING_SECONDS = 30.0
"""A Job that has had too few pods for less is not looked into."""
RECHECK_SECONDS = 30.0
REFUSAL_SECONDS = 660.0
"""For how long a refusal is believed that no creation has followed: of one object's Events no more
than 25, and then one in five minutes, reach the API server."""

_REMEDY = (
    "The Job controller asks again by itself: have the quota raised, or change what the answer"
    " names."
)


def tell_refused(step: Step, view: StageView) -> bool:
    """Say that the API server refuses pods of a stage; return whether it is so."""
    missing, began = _num_missing(view), view.run_began
    if missing <= 0 or began is None:
        return False
    left = CREATING_SECONDS - (step.now - _last_change(view, began)).total_seconds()
    step.look_again(left if left > 0 else RECHECK_SECONDS)
    if left > 0:
        return False
    assert view.job is not None
    name = view.job["metadata"]["name"]
    if name not in step.observed.warnings:
        # An earlier Job of that name may have been refused too.
        told = max(began, step.now - timedelta(seconds=REFUSAL_SECONDS))
        step.first.append(LookUpWarnings(kind="Job", names=(name,), since=told))
        return False
    kind, conditions = TRAITS[view.stage].condition, step.draft.conditions
    answer = step.observed.warnings[name]
    if answer is None:
        if not view.pods:
            # It is not at work, whatever keeps its pods: the Job controller may be away.
            text = f"Job {name} has no pod yet; kubectl describe job {name} may say why."
            conditions.set(kind, False, Reason.WAITING_FOR_PODS, text)
        return not view.pods
    count = f"{missing} of {view.num_pods} pods" if view.num_pods > 1 else "the pod"
    words = _words_of(answer.message, name)
    message = f"The API server refuses {count} of Job {name}: {words}. {_REMEDY}"
    if conditions.reason_of(kind) != Reason.PODS_NOT_CREATED:
        step.draft.announce(Reason.PODS_NOT_CREATED, f"{view.stage.value}: {message}", warning=True)
    conditions.set(kind, False, Reason.PODS_NOT_CREATED, message)
    return True


def _num_missing(view: StageView) -> int:
    """Return how many pods of a stage neither run, nor wait, nor have done their part."""
    if view.job is None or not view.is_stoppable or "managedBy" in view.job["spec"]:
        return 0
    status = view.job["status"]
    seen = sum(pod["status"]["phase"] != "Failed" for pod in view.pods)
    # Either the Job or its pods may have been read first.
    counted = status.get("active", 0) + status.get("succeeded", 0)
    return view.num_pods - max(seen, counted)


def _last_change(view: StageView, began: datetime) -> datetime:
    """Return the last moment at which a pod is known to have come or gone."""
    came = [pod["metadata"].get("creationTimestamp") for pod in view.pods]
    went = [(container_of(pod).get("terminated") or {}).get("finishedAt") for pod in view.pods]
    return max([began, *filter(None, map(parse_timestamp, [*came, *went]))])


def _words_of(answer: str, job: str) -> str:
    """Return the answer without what differs from one attempt to the next: names that are drawn."""
    words = answer.removeprefix("(combined from similar events): ")
    words = words.removeprefix("Error creating: ")
    return re.sub(rf'pods? "{re.escape(job)}-[a-z0-9-]*"', "a pod", words).rstrip(". ")
