"""Sends a stage's begin, result or failure to the job's trackers."""

from __future__ import annotations

from pathlib import Path

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.stage_results import TrainResult
from finetune_api.protocol.termination import StageResult
from finetune_api.protocol.trainer import Stage
from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.run import RunStorage, Workspace
from finetune_trainer.storage import fetch_folder
from finetune_trainer.tracking.content import (
    Facts,
    Version,
    facts_of_evaluation,
    facts_of_job,
    facts_of_training,
)
from finetune_trainer.tracking.opening import trackers_of
from finetune_trainer.tracking.tracker import RunStatus
from finetune_trainer.tracking.worker import Tracking, close_all

END_SECONDS = 10.0
"""How long a stage that has its result waits at most for its trackers to take it."""
FAILURE_SECONDS = 3.0
REPORT = "report.html"


class StageTracking:
    """Sends one stage to its trackers; does nothing if the job names none.

    Of several nodes the first one sends. Its reads fail at once in an outage: a copy must not delay
    a result.
    """

    def __init__(self, storage: RunStorage, workspace: Workspace, *, is_first_node: bool) -> None:
        self._storage = storage
        self._workspace = workspace
        self._trackings: list[Tracking] = []
        if not is_first_node or storage.stage is Stage.PREPARE:
            return
        trains, work_dir = storage.stage is Stage.TRAIN, workspace.folder
        facts = facts_of_job(storage.job)
        self._trackings = [
            Tracking(
                tracker,
                facts,
                curve=work_dir / "metrics.jsonl" if trains else None,
                recipe=work_dir / "control" / "recipe.json" if trains else None,
                tell=storage.say,
            ).start()
            for tracker in trackers_of(storage, workspace)
        ]

    def finish(self, result: StageResult) -> StageResult:
        """Send the result; return it with the state of the tracking."""
        if not self._trackings:
            return result
        if isinstance(result, TrainResult):
            self._add(facts_of_training(result))
        elif isinstance(result, EvaluateResult):
            more = Facts(report=self._report(), version=self._version(result))
            self._add(facts_of_evaluation(result).and_also(more), curve=self._curve())
        # A candidate that waits for a decision is evaluated too.
        status: RunStatus = "RUNNING" if isinstance(result, TrainResult) else "FINISHED"
        told = close_all(self._trackings, status, patience_seconds=END_SECONDS)
        return result.model_copy(update={"tracking": told})

    def fail(self, error: BaseException) -> None:
        """Send the end without a result; another attempt takes it back."""
        if self._trackings:
            status: RunStatus = "KILLED" if isinstance(error, Stopped) else "FAILED"
            close_all(self._trackings, status, patience_seconds=FAILURE_SECONDS)

    def _add(self, facts: Facts, *, curve: Path | None = None) -> None:
        for tracking in self._trackings:
            tracking.add(facts, curve=curve)

    def _curve(self) -> Path | None:
        """Return a copy of the training curve: a tracker may be unreachable until its end."""
        key = f"{self._storage.job.run_prefix}/metrics.jsonl"
        path = self._workspace.scratch("tracking") / "metrics.jsonl"
        try:
            path.write_bytes(self._storage.open_direct().read_bytes(key))
        except TrainerError:
            return None
        return path

    def _report(self) -> Path | None:
        """Return a copy of the page, if the job allows it: it quotes held-out rows."""
        tracking = self._storage.job.spec.tracking
        if tracking is None or tracking.mlflow is None or not tracking.mlflow.upload_report:
            return None
        folder = self._workspace.scratch("tracking")
        (folder / REPORT).unlink(missing_ok=True)
        key = f"{self._storage.job.run_prefix}/evaluation"
        try:
            fetch_folder(self._storage.open_direct(), key, folder, only=(REPORT,))
        except TrainerError as error:
            self._storage.say(f"tracking: the report is not uploaded: {error.message}")
            return None
        return folder / REPORT

    def _version(self, result: EvaluateResult) -> Version | None:
        if result.version is None:
            return None
        source = self._storage.uri_of(f"{self._storage.job.run_prefix}/adapter")
        return Version(source=source, number=result.version)
