"""A run in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.spec.tracking import Mlflow
from finetune_trainer.tracking.content import Facts, Point, Version
from finetune_trainer.tracking.mlflow import run as runs
from finetune_trainer.tracking.mlflow.server import MlflowServer
from finetune_trainer.tracking.tracker import RunStatus, Tracker, TrackerError

UPLOADED_TAG = "finetune.report.uploaded"


class MlflowTracker(Tracker):
    """Sends a run to an MLflow server."""

    def __init__(self, job: ResolvedJob, settings: Mlflow, server: MlflowServer) -> None:
        super().__init__(server.uri)
        self._job = job
        self._settings = settings
        self._server = server
        self._opened: runs.OpenRun | None = None

    def open(self) -> None:
        """Find the run by the job's UID, or make it."""
        experiment = self._settings.experiment or self._job.namespace
        run = runs.open_run(self._server, self._job, experiment)
        self.page = runs.page_of(self._server, run)
        runs.set_status(self._server, run, "RUNNING")
        self._opened = run
        self.is_open = True

    def send_facts(self, facts: Facts) -> None:
        """Send settings, tags and values; store the page, register the version."""
        server, run = self._server, self._run
        acts: list[Callable[[], None]] = [partial(runs.send_facts, server, run, facts)]
        if facts.report is not None and UPLOADED_TAG not in run.tags:
            acts.append(partial(self._upload, run, facts.report))
        if facts.version is not None and self._settings.registered_model is not None:
            model = self._settings.registered_model
            acts.append(partial(self._register, run, model, facts.version))
        refused: TrackerError | None = None
        for act in acts:
            try:
                act()
            except TrackerError as error:
                if not error.is_refusal:
                    raise
                refused = error  # one that the server takes offence at keeps no other back
        if refused is not None:
            raise refused

    def send_points(self, points: Sequence[Point]) -> None:
        """Send the values that the run lacks."""
        runs.send_points(self._server, self._run, points)

    def close(self, status: RunStatus) -> None:
        """Set the run's status."""
        runs.set_status(self._server, self._run, status)

    @property
    def _run(self) -> runs.OpenRun:
        assert self._opened is not None
        return self._opened

    def _upload(self, run: runs.OpenRun, report: Path) -> None:
        runs.upload(self._server, run, report, "text/html")
        runs.send_facts(self._server, run, Facts(tags={UPLOADED_TAG: report.name}))

    def _register(self, run: runs.OpenRun, model: str, version: Version) -> None:
        tags = {"finetune.version": str(version.number), "finetune.uid": self._job.uid}
        runs.register(self._server, run, model, source=version.source, tags=tags)
