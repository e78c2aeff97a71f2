"""What a trainer would have said: pod statuses and Job statuses without a kubelet.

Shared by the benchmarks and by the tests on a real API server.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from finetune_api.protocol.evaluation_result import EvaluateResult, Score
from finetune_api.protocol.stage_results import (
    MetricValue,
    PrepareResult,
    RowCounts,
    StepSelection,
    TrainResult,
)
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import ExitCode, Stage

Object = dict[str, Any]

NUM_STEPS = 171


def timestamp() -> str:
    """Return the present as the API server writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def finetunejob(name: str, namespace: str, **spec: Any) -> Object:
    """Build a small FineTuneJob; keywords replace fields of the spec."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "goal": {"metric": "exactMatch", "atLeast": "0.80"},
            "model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"},
            "dataset": {"sources": [{"uri": "s3://data/headlines.jsonl"}]},
            "output": {"uri": "s3://models", "credentialsRef": {"name": "s3-rw"}},
            "resources": {"gpusPerNode": 0, "cpu": "1", "memory": "1Gi"},
            **spec,
        },
    }


def result_of(stage: Stage, *, goal_met: bool = True, validation_loss: str = "") -> Any:
    """Return a plausible result of a stage; of a training, with a loss where one is given."""
    if stage is Stage.PREPARE:
        return PrepareResult(
            digest="d" * 64,
            uri="s3://models/datasets/dddd",
            rows=RowCounts(train=450, validation=30, test=120),
            num_tokens=21034,
            num_invalid_rows=0,
            num_truncated_rows=2,
        )
    if stage is Stage.TRAIN:
        return TrainResult(
            uri="s3://models/runs/x/adapter",
            sha256="a" * 64,
            num_bytes=1843200,
            manifest_sha256="b" * 64,
            step=NUM_STEPS,
            selection=_selection_of(validation_loss) if validation_loss else None,
            metrics=[MetricValue(name="loss", value="0.1234")],
        )
    return EvaluateResult(
        scores=[Score(name="exactMatch", base="0.41", tuned="0.93")],
        num_samples=120,
        goal_met=goal_met,
        goal_message="exactMatch 0.93 is at least 0.80" if goal_met else "exactMatch 0.70 < 0.80",
        report_uri="s3://models/runs/x/evaluation",
        digest="e" * 64,
        stage="publish" if stage is Stage.PUBLISH else "evaluate",
        version=1 if goal_met else None,
        manifest_uri="s3://models/versions/x/1/manifest.json" if goal_met else "",
    )


def _selection_of(loss: str) -> StepSelection:
    return StepSelection(
        step=NUM_STEPS, validation_loss=loss, last_step=NUM_STEPS, planned_steps=NUM_STEPS
    )


def success_text(stage: Stage, *, goal_met: bool = True, validation_loss: str = "") -> str:
    """Return the termination message of a stage that succeeded."""
    return TerminationMessage(
        stage=stage,
        exit_code=ExitCode.OK,
        reason="Succeeded",
        result=result_of(stage, goal_met=goal_met, validation_loss=validation_loss),
    ).to_text()


def running_status(started: str) -> Object:
    """Return the status of a pod whose container runs."""
    return {
        "phase": "Running",
        "startTime": started,
        "containerStatuses": [
            _container({"running": {"startedAt": started}}, ready=True, started=True)
        ],
    }


def ended_status(
    exit_code: int,
    text: str,
    *,
    reason: str = "",
    conditions: list[Object] | None = None,
) -> Object:
    """Return the status of a pod whose container has ended."""
    now = timestamp()
    ended = {
        "exitCode": exit_code,
        "message": text,
        "reason": reason or ("Completed" if exit_code == 0 else "Error"),
        "startedAt": now,
        "finishedAt": now,
    }
    status: Object = {
        "phase": "Succeeded" if exit_code == 0 else "Failed",
        "containerStatuses": [_container({"terminated": ended}, ready=False, started=False)],
    }
    if conditions:
        status["conditions"] = conditions
    return status


def waiting_status(reason: str, message: str) -> Object:
    """Return the status of a pod whose container cannot start."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "phase": "Pending",
        "containerStatuses": [_container(state, ready=False, started=False)],
    }


def _container(state: Object, *, ready: bool, started: bool) -> Object:
    return {
        "name": "trainer",
        "image": "finetune-trainer:latest",
        "imageID": "",
        "ready": ready,
        "started": started,
        "restartCount": 0,
        "state": state,
    }


def job_started_status(started: str) -> Object:
    """Return the status of a Job whose pod runs."""
    return {"startTime": started, "active": 1, "ready": 1}


def job_complete_status(started: str, completions: int = 1) -> Object:
    """Return the status of a Job that completed, with all the API server insists on."""
    now = timestamp()

    def condition(kind: str) -> Object:
        return {
            "type": kind,
            "status": "True",
            "reason": "CompletionsReached",
            "message": "",
            "lastProbeTime": now,
            "lastTransitionTime": now,
        }

    return {
        "startTime": started,
        "completionTime": now,
        "active": 0,
        "ready": 0,
        "succeeded": completions,
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
    }
