"""Builders of snapshots: one FineTuneJob and its children at any moment of its life."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.names import Owner
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import ExitCode, FailureClass, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.status.job import FineTuneJobStatus
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.render.job import render_job
from finetune_operator.finetunejob.state.draft import OWNED_FIELDS
from finetune_operator.finetunejob.state.observed import Observed
from finetune_operator.finetunejob.state.retry import Ledger
from finetune_operator.finetunejob.state.trimming import trim_job, trim_pod
from finetune_operator.integrations.kueue.state import QueueState
from finetune_operator.status.conditions import timestamp
from kit.cluster.simulation import finetunejob, success_text

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
UID = "uid-of-the-job"
CONFIG = OperatorConfig(progress_url="http://progress:8090", model_downloads="Anywhere")


CONDITIONS = {
    Stage.PREPARE: "DatasetReady",
    Stage.TRAIN: "Training",
    Stage.EVALUATE: "Evaluated",
}
"""The condition of each stage that runs on the user's data, in their order."""


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def job(**spec: Any) -> dict[str, Any]:
    body = finetunejob("headlines", "team-a", **spec)
    body["metadata"] |= {
        "uid": UID,
        "generation": 1,
        "resourceVersion": "1",
        "creationTimestamp": timestamp(NOW),
    }
    return body


def observe(body: dict[str, Any], **known: Any) -> Observed:
    try:
        parsed, problem = FineTuneJob.from_stored({**body, "status": None}), ""
    except ValueError as error:
        parsed, problem = None, str(error)
    pods = known.get("pods", {})
    seen = Ledger().seen([p for found in pods.values() for p in found])
    known.setdefault("ledger", seen.reached((body.get("status") or {}).get("progress")))
    return Observed(job=body, parsed=parsed, problem=problem, **known)


def child(
    stage: Stage, body: dict[str, Any] | None = None, *, status: Any = None, suspend: bool = False,
    annotations: Any = None, run: int = 1,
) -> dict[str, Any]:  # fmt: skip
    body = body or job()
    spec = FineTuneJob.from_wire({**body, "status": None}).spec
    manifest = render_job(
        spec, stage, Owner(namespace="team-a", name="headlines", uid=UID), CONFIG, run=run
    )
    manifest["metadata"] |= {
        "uid": f"uid-{stage.value}",
        "resourceVersion": "5",
        "creationTimestamp": timestamp(NOW),
    }
    if annotations:
        manifest["metadata"]["annotations"] = annotations
    manifest["spec"]["suspend"] = suspend
    manifest["status"] = status or {}
    return trim_job(manifest)


def running(start: float = 0.0) -> dict[str, Any]:
    return {"startTime": timestamp(at(start)), "active": 1, "ready": 1}


def complete(start: float = 0.0, end: float = 60.0) -> dict[str, Any]:
    return {
        "startTime": timestamp(at(start)),
        "completionTime": timestamp(at(end)),
        "succeeded": 1,
        "conditions": [
            {"type": "Complete", "status": "True", "lastTransitionTime": timestamp(at(end))}
        ],
    }


def failed(reason: str = "BackoffLimitExceeded", end: float = 60.0, count: int = 4) -> Any:
    return {
        "startTime": timestamp(NOW),
        "failed": count,
        "conditions": [
            {
                "type": "Failed",
                "status": "True",
                "reason": reason,
                "message": "Job has reached the specified backoff limit",
                "lastTransitionTime": timestamp(at(end)),
            }
        ],
    }


def pod(
    stage: Stage, *, phase: str = "Running", state: Any = None, name: str = "", index: int = 0,
    conditions: Any = None, node: str = "node-1", created: float = 0.0, deleted: bool = False,
    spec: Any = None, **status: Any,
) -> dict[str, Any]:  # fmt: skip
    name = name or f"headlines-{stage.value}-{index}-abcde"
    metadata = {
        "name": name,
        "namespace": "team-a",
        "uid": f"uid-{name}",
        "resourceVersion": "9",
        "creationTimestamp": timestamp(at(created)),
        "labels": {
            "finetune.dev/job": "headlines",
            "finetune.dev/stage": stage.value,
            "batch.kubernetes.io/job-completion-index": str(index),
        },
        "ownerReferences": [
            {"kind": "Job", "name": "x", "uid": f"uid-{stage.value}", "controller": True}
        ],
    }
    if deleted:
        metadata["deletionTimestamp"] = timestamp(NOW)
    body = {
        "metadata": metadata,
        "spec": {"nodeName": node, **(spec or {})},
        "status": {"phase": phase, "conditions": conditions or [], **status},
    }
    if state is not None:
        body["status"]["containerStatuses"] = [{"name": "trainer", "state": state}]
    return trim_pod(body)


def ended(
    stage: Stage,
    exit_code: int,
    text: str = "",
    *,
    reason: str = "",
    end: float = 60.0,
    start: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    begun = {} if start is None else {"startedAt": timestamp(at(start))}
    state = {
        "terminated": {
            **begun,
            "exitCode": exit_code,
            "message": text,
            "reason": reason or ("Completed" if exit_code == 0 else "Error"),
            "finishedAt": timestamp(at(end)),
        }
    }
    return pod(stage, phase="Succeeded" if exit_code == 0 else "Failed", state=state, **more)


def succeeded(stage: Stage, *, goal_met: bool = True) -> dict[str, Any]:
    return ended(stage, 0, success_text(stage, goal_met=goal_met))


def words(
    stage: Stage, code: ExitCode, failure: FailureClass, reason: str, message: str, **more: Any
) -> str:
    return TerminationMessage(
        stage=stage, exit_code=code, failure_class=failure, reason=reason, message=message, **more
    ).to_text()


def waiting(stage: Stage, reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(stage, phase="Pending", state=state, **more)


def initializing(stage: Stage, *before: Any, phase: str = "Pending", **more: Any) -> dict[str, Any]:
    """Return a pod whose container waits for others.

    Args:
        stage: Its stage.
        before: Name and state of each init container; of a native sidecar also whether it started.
        phase: Its phase.
        more: What else is said of the pod.
    """
    native = [name for name, _, *started in before if started]
    return pod(
        stage, phase=phase, state={"waiting": {"reason": "PodInitializing"}},
        spec={"initContainers": [{"name": name, "restartPolicy": "Always"} for name in native]},
        initContainerStatuses=[
            {"name": name, "state": state, "started": bool(started and started[0])}
            for name, state, *started in before
        ],
        **more,
    )  # fmt: skip


def after(body: dict[str, Any], made: Any) -> dict[str, Any]:
    """Return the object with the planned status in it, as the API server would store it."""
    if made.status is None:
        return body
    # What the operator has applied before and leaves out now is removed.
    others = {k: v for k, v in (body.get("status") or {}).items() if k not in OWNED_FIELDS}
    FineTuneJobStatus.model_validate({**others, **made.status})
    return {**body, "status": {**others, **made.status}}


def plans(body, known, *moments):
    """Plan at each moment with the status of the one before it; return the plans and the body."""
    made = []
    for moment in moments:
        made.append(plan(observe(body, **known), at(moment), CONFIG))
        body = after(body, made[-1])
    return made, body


def live(snapshots: list[dict[str, Any]], body: dict[str, Any], now: datetime = NOW) -> Any:
    """Plan through several snapshots, storing every status; return the last plan and object."""
    made = None
    for known in snapshots:
        made = plan(observe(body, **known), now, CONFIG)
        body = after(body, made)
    return made, body


def condition(body_or_plan: Any, kind: str) -> dict[str, Any] | None:
    status = body_or_plan.status if hasattr(body_or_plan, "status") else body_or_plan.get("status")
    for item in (status or {}).get("conditions") or ():
        if item["type"] == kind:
            return item
    return None


def done_before(stage):
    """The snapshot of a job whose stages before this one are over."""
    order = list(CONDITIONS)
    return stages_done(*order[: order.index(stage)])


def stages_done(*stages: Stage) -> dict[str, Any]:
    return {
        "jobs": {stage: child(stage, status=complete()) for stage in stages},
        "pods": {stage: (succeeded(stage),) for stage in stages},
    }


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {"jobs": {}, "pods": {}}
    for part in parts:
        for key, value in part.items():
            if isinstance(value, dict):
                known.setdefault(key, {}).update(value)
            else:
                known[key] = value
    return known


DRAIN = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]


PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


def reasons(made):
    return [event.reason for event in made.events]


def accepted(body=None):
    """Return a job whose prepare Job is there."""
    body = body or job()
    made = plan(observe(body, jobs={PREPARE: child(PREPARE)}), NOW, CONFIG)
    return after(body, made)


def trained(body=None, **known):
    """Return a job in training."""
    body = accepted(body)
    made, body = live([stages_done(PREPARE)], body, at(60))
    made, body = live(
        [merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running())}})],
        body,
        at(70),
    )
    return body


def suspended(body):
    return {**body, "spec": {**body["spec"], "suspend": True}}


def with_train_pod(body, each):
    return merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status={"startTime": timestamp(NOW), "active": 1})}},
        {"pods": {TRAIN: (each,)}},
    )


def queue(**state):
    values = {
        "workload": "job-headlines-train-1234", "is_active": True, "is_admitted": False,
        "reason": "Pending", "message": "couldn't assign flavors: insufficient quota",
    }  # fmt: skip
    return QueueState(**{**values, **state})


def unscheduled():
    lacking = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available", "lastTransitionTime": timestamp(at(60)),
    }  # fmt: skip
    return pod(TRAIN, phase="Pending", node="", conditions=[lacking])


__all__ = [name for name in dir() if not name.startswith("_")] + ["replace"]
