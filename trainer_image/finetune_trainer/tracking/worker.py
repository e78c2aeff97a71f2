"""Keeps a run in a tracker up to date, from a thread that nobody waits for.

The curve on the disk is the queue: what the tracker has not taken yet is read from there when it
answers again, so memory stays as it is however long it is away. The thread runs in the parent of a
training, another process than the ranks. Whatever goes wrong is told once, and tried again less and
less often.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from finetune_api.stage_results import TrackingResult
from finetune_api.trainer import ResolvedJob
from finetune_api.v1alpha1.tracking import Mlflow
from finetune_trainer.tracking import run as runs
from finetune_trainer.tracking.content import (
    Facts,
    facts_of_job,
    facts_of_recipe,
    points_of_curve,
)
from finetune_trainer.tracking.mlflow import MlflowServer, TrackerError

POLL_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 60.0
PIECE_BYTES = 256 * 1024
"""Of a curve so much is read at once."""
MAX_PROBLEM = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """What becomes a version of a registered model.

    Attributes:
        model: Name of the registered model.
        source: Address of the adapter.
        number: Version that this product has published it as.
    """

    model: str
    source: str
    number: int


class Tracking:
    """Tells a tracker of one stage.

    Args:
        job: The effective job.
        settings: ``spec.tracking.mlflow``.
        server: The server.
        curve: ``metrics.jsonl`` as it is being written; None for a stage without one.
        recipe: File that will hold the settled recipe; None likewise.
        tell: Called with a message for people, from the thread.
        poll_seconds: How often the curve is looked at.
    """

    def __init__(
        self,
        job: ResolvedJob,
        settings: Mlflow,
        server: MlflowServer,
        *,
        curve: Path | None = None,
        recipe: Path | None = None,
        tell: Callable[[str], None],
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._job = job
        self._experiment = settings.experiment or job.namespace
        self._server = server
        self._curve = curve
        self._recipe = recipe
        self._tell = tell
        self._poll_seconds = poll_seconds
        self._offset = 0
        self._run: runs.OpenRun | None = None
        self._lock = threading.Lock()
        self._facts = facts_of_job(job)
        self._report: Path | None = None
        self._version: Version | None = None
        self._status = "RUNNING"
        self._problem = ""
        self._has_told = False
        self._has_lost = False
        self._closing = threading.Event()
        self._is_delivered = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> Tracking:
        """Begin to tell."""
        self._thread.start()
        return self

    def add(
        self,
        facts: Facts,
        *,
        curve: Path | None = None,
        report: Path | None = None,
        version: Version | None = None,
    ) -> None:
        """Remember what else is to be told: settings, verdicts, files, a published version."""
        with self._lock:
            self._curve = curve or self._curve
            self._facts = self._facts.and_also(facts)
            self._report = report or self._report
            self._version = version or self._version

    def close(self, status: str, *, patience_seconds: float) -> TrackingResult:
        """Tell how it ended and stop; waits at most so long for the tracker.

        Args:
            status: ``RUNNING`` if a later stage goes on, ``FINISHED``, ``FAILED`` or ``KILLED``.
            patience_seconds: How long.

        Returns:
            Where the run is to be seen, and what went wrong if anything did.
        """
        with self._lock:
            self._status = status
        self._closing.set()
        self._thread.join(patience_seconds)
        if self._thread.is_alive():
            self._note(f"{self._server.uri} did not take everything within {patience_seconds:g} s")
        run = self._run
        page = runs.page_of(self._server, run) if run else ""
        return TrackingResult(uri=page[:512], problem="" if self._is_delivered else self._problem)

    def _work(self) -> None:
        wait = self._poll_seconds
        while True:
            is_last = self._closing.wait(wait)
            is_done = self._try_all()
            if is_last:
                self._is_delivered = is_done
                return
            longer = min(2 * wait, LONGEST_WAIT_SECONDS)
            wait = self._poll_seconds if is_done else longer

    def _try_all(self) -> bool:
        """Bring the tracker up to date; returns whether it is."""
        try:
            return self._bring_up_to_date()
        except TrackerError as error:
            self._note(str(error))
        except Exception as error:  # a tracker is never worth a job
            self._note(f"{self._server.uri}: {type(error).__name__}")
        return False

    def _bring_up_to_date(self) -> bool:
        if self._run is None:
            self._run = runs.open_run(self._server, self._job, self._experiment)
        run, server, is_done = self._run, self._server, True
        with self._lock:
            facts, report, version = self._facts, self._report, self._version
            status = self._status
        is_done &= self._settle(lambda: runs.send_facts(server, run, facts))
        is_done &= self._settle(lambda: self._send_recipe(run))
        is_done &= self._send_curve(run)
        if report is not None and "finetune.report.uploaded" not in run.tags:
            is_done &= self._settle(lambda: self._upload(run, report))
        if version is not None:
            is_done &= self._settle(lambda: self._register(run, version))
        runs.set_status(server, run, status)
        return is_done

    def _settle(self, act: Callable[[], None]) -> bool:
        """Do one thing; one that the server takes offence at does not keep the others back."""
        try:
            act()
        except TrackerError as error:
            if not error.is_refusal:
                raise
            self._note(str(error))
            return False
        return True

    def _send_recipe(self, run: runs.OpenRun) -> None:
        if self._recipe is None or not self._recipe.exists():
            return
        try:
            recipe = json.loads(self._recipe.read_text())
        except ValueError:
            return  # it is being written
        runs.send_facts(self._server, run, facts_of_recipe(recipe))

    def _send_curve(self, run: runs.OpenRun) -> bool:
        """Send what stands in the curve beyond what was sent; whole lines only."""
        if self._curve is None or not self._curve.exists():
            return True
        with self._curve.open("rb") as file:
            if file.seek(0, 2) < self._offset:
                self._offset = 0  # a rank has taken back points that are trained again
            file.seek(self._offset)
            while lines := _whole_lines(file.read(PIECE_BYTES)):
                points = points_of_curve(lines.splitlines())
                send = partial(runs.send_points, self._server, run, points)
                self._has_lost |= not self._settle(send)
                self._offset += len(lines)
                file.seek(self._offset)
        return not self._has_lost

    def _upload(self, run: runs.OpenRun, report: Path) -> None:
        runs.upload(self._server, run, report, "text/html")
        runs.send_facts(self._server, run, Facts(tags={"finetune.report.uploaded": report.name}))

    def _register(self, run: runs.OpenRun, version: Version) -> None:
        tags = {"finetune.version": str(version.number), "finetune.uid": self._job.uid}
        runs.register(self._server, run, version.model, source=version.source, tags=tags)

    def _note(self, problem: str) -> None:
        self._problem = problem[:MAX_PROBLEM]
        if not self._has_told:
            self._has_told = True
            self._tell(f"tracking: {self._problem}. The job does not need it and goes on")


def _whole_lines(piece: bytes) -> bytes:
    return piece[: piece.rfind(b"\n") + 1]
