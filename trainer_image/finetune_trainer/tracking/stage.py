"""What a stage tells its tracker, if the job names one: begin, result, failure."""

from __future__ import annotations

import os
from pathlib import Path

from finetune_api.evaluation_result import EvaluateResult
from finetune_api.stage_results import TrainResult
from finetune_api.termination import StageResult
from finetune_api.trainer import Stage
from finetune_trainer.context import StageContext
from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.storage import ObjectStore, fetch_folder, open_store
from finetune_trainer.tracking.content import facts_of_evaluation, facts_of_training
from finetune_trainer.tracking.mlflow import MlflowServer, authorization
from finetune_trainer.tracking.worker import Tracking, Version

END_SECONDS = 10.0
"""How long a stage that has its result waits at most for the tracker to take it."""
FAILURE_SECONDS = 3.0
REPORT = "report.html"


class StageTracking:
    """Tells the tracker of one stage; does nothing where the job names none.

    Args:
        context: The stage's surroundings.
        is_first_node: Of several nodes one tells.
    """

    def __init__(self, context: StageContext, *, is_first_node: bool) -> None:
        self._context = context
        self._tracking: Tracking | None = None
        tracking = context.job.spec.tracking
        if tracking is None or not is_first_node or context.emit.stage is Stage.PREPARE:
            return
        trains = context.emit.stage is Stage.TRAIN
        self._settings = tracking.mlflow
        self._tracking = Tracking(
            context.job,
            self._settings,
            MlflowServer(self._settings.uri, self._headers),
            curve=context.work_dir / "metrics.jsonl" if trains else None,
            recipe=context.work_dir / "control" / "recipe.json" if trains else None,
            tell=context.emit.message,
        ).start()

    def finish(self, result: StageResult) -> StageResult:
        """Tell the result; returns it with what became of the tracking."""
        if self._tracking is None:
            return result
        if isinstance(result, TrainResult):
            self._tracking.add(facts_of_training(result))
        elif isinstance(result, EvaluateResult):
            self._tracking.add(
                facts_of_evaluation(result),
                curve=self._curve(),
                report=self._report(),
                version=self._version(result),
            )
        # A candidate that people have yet to decide on is evaluated all the same.
        status = "RUNNING" if isinstance(result, TrainResult) else "FINISHED"
        told = self._tracking.close(status, patience_seconds=END_SECONDS)
        return result.model_copy(update={"tracking": told})

    def fail(self, error: BaseException) -> None:
        """Tell that the stage ends without a result; another attempt takes it back."""
        if self._tracking is not None:
            status = "KILLED" if isinstance(error, Stopped) else "FAILED"
            self._tracking.close(status, patience_seconds=FAILURE_SECONDS)

    def _headers(self) -> dict[str, str]:
        access = self._context.access(self._settings.credentials_ref)
        if self._context.credentials_dir is None:
            return authorization(os.environ.get)
        if self._settings.credentials_ref is None:
            return {}  # in a pod the environment is the administrator's, and not for this address
        return authorization(access.read_optional_credential)

    def _curve(self) -> Path | None:
        """Return a copy of the training curve: the tracker may have been away until its end."""
        key = f"{self._context.job.run_prefix}/metrics.jsonl"
        path = self._context.scratch("tracking") / "metrics.jsonl"
        try:
            path.write_bytes(self._storage().read_bytes(key))
        except TrainerError:
            return None
        return path

    def _report(self) -> Path | None:
        """Return a copy of the page, if it may leave: it quotes held-out rows."""
        if not self._settings.upload_report:
            return None
        folder = self._context.scratch("tracking")
        (folder / REPORT).unlink(missing_ok=True)
        key = f"{self._context.job.run_prefix}/evaluation"
        try:
            fetch_folder(self._storage(), key, folder, only=(REPORT,))
        except TrainerError as error:
            self._context.emit.message(f"tracking: the report is not uploaded: {error.message}")
            return None
        return folder / REPORT

    def _storage(self) -> ObjectStore:
        """Return the output without patience: a result is not kept waiting for its copy."""
        return open_store(self._context.job.spec.output.uri, self._context.access())

    def _version(self, result: EvaluateResult) -> Version | None:
        name = self._settings.registered_model
        if name is None or result.version is None:
            return None
        source = self._context.uri_of(f"{self._context.job.run_prefix}/adapter")
        return Version(model=name, source=source, number=result.version)
