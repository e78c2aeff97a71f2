"""Runs the stages of a job one after the other on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.stage_results import PrepareResult, TrainResult
from finetune_api.protocol.termination import StageResult
from finetune_api.protocol.trainer import RAW_COPIES, Environment, ExitCode, Stage
from finetune_cli.exits import NOT_MET
from finetune_cli.local.job import LocalRun, cache_root
from finetune_cli.local.lock import locked
from finetune_cli.local.stages import KILLED_BASE, StageOutcome, StageProcess, interruptible
from finetune_cli.views.display import Display, duration_text

RETRY_DELAYS_SECONDS = (5.0, 10.0, 20.0)
"""Pauses before the attempts that follow a failure that may pass."""

RUN_STAGES = (Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE)
"""The evaluation publishes at its end; ``finetune publish`` runs that alone."""
GPU_DEVICES = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")

MORE_SPACE = (
    "larger disks are named with --output-dir for results, --work-dir for what a run keeps "
    "meanwhile, and XDG_CACHE_HOME for models"
)
KEPT = "; what is stored so far is kept"

_RESULT: TypeAdapter[StageResult] = TypeAdapter(StageResult)


@dataclass(kw_only=True)
class RunOutcome:
    """The end of a run.

    Attributes:
        exit_code: Code of the failed stage; 1 if all finished but goal or gates were missed; else
            0.
        failed: The last attempt of the unfinished stage, or None.
        stopped_at: The next stage, if a stop came while none ran.
        unapproved: Digest of the unapproved data set, if the run stopped there.
    """

    run: LocalRun
    exit_code: int = ExitCode.OK
    results: dict[Stage, StageResult] = field(default_factory=dict)
    failed: StageOutcome | None = None
    stopped_at: Stage | None = None
    unapproved: str = ""
    seconds: float = 0.0

    @property
    def evaluation(self) -> EvaluateResult | None:
        """Result of ``evaluate``, if it finished."""
        result = self.results.get(Stage.EVALUATE)
        return result if isinstance(result, EvaluateResult) else None

    @property
    def training(self) -> TrainResult | None:
        """Result of ``train``, if it finished."""
        result = self.results.get(Stage.TRAIN)
        return result if isinstance(result, TrainResult) else None

    @property
    def preparation(self) -> PrepareResult | None:
        """Result of ``prepare``, if it finished."""
        result = self.results.get(Stage.PREPARE)
        return result if isinstance(result, PrepareResult) else None


class Runner:
    """Runs one job; use once.

    Args:
        approved_data: Digest of the approved data set, or None.
        until: The last stage to run; None runs all.
        sleep: Waits for so many seconds.
        retry_delays_seconds: Pauses before retries of temporary failures.
    """

    def __init__(
        self,
        run: LocalRun,
        display: Display,
        *,
        approved_data: str | None = None,
        until: Stage | None = None,
        sleep: Callable[[float], None] = time.sleep,
        retry_delays_seconds: tuple[float, ...] = RETRY_DELAYS_SECONDS,
    ) -> None:
        self._run = run
        self._display = display
        self._until = until
        self._approved = approved_data
        self._sleep = sleep
        self._delays = retry_delays_seconds

    def run(self) -> RunOutcome:
        """Run all stages, or up to ``until``, or to the first that fails.

        Raises:
            CliError: The work folder cannot be used, or another run uses it.
        """
        outcome = RunOutcome(run=self._run)
        start = time.monotonic()
        run = self._run
        with interruptible(), locked(run), removing_raw_copies(run.work_dir):
            environment = stage_environment(self._run)
            self._note_missing_gpu()
            for stage in RUN_STAGES:
                if stage is Stage.TRAIN and (unapproved := self._find_unapproved(outcome)):
                    outcome.unapproved, outcome.exit_code = unapproved, NOT_MET
                    break
                try:
                    self._add_stage(stage, environment, outcome)
                except KeyboardInterrupt:
                    outcome.stopped_at, outcome.exit_code = stage, ExitCode.STOPPED
                if outcome.exit_code or stage is self._until:
                    break
        outcome.seconds = time.monotonic() - start
        if outcome.evaluation is not None and outcome.evaluation.is_missed:
            outcome.exit_code = NOT_MET
        return outcome

    def _add_stage(self, stage: Stage, environment: Mapping[str, str], outcome: RunOutcome) -> None:
        """Run a stage and add its outcome.

        Raises:
            KeyboardInterrupt: A stop came while it did not run.
        """
        attempt = self._run_stage(stage, environment)
        if attempt.is_ok:
            outcome.results[stage] = _RESULT.validate_python(attempt.result)
            if attempt.was_stopped and stage not in (self._until, RUN_STAGES[-1]):
                # The stop came after the stage: it holds for the next one.
                outcome.stopped_at = RUN_STAGES[RUN_STAGES.index(stage) + 1]
                outcome.exit_code = ExitCode.STOPPED
        elif attempt.was_stopped and attempt.failure is None:
            outcome.failed, outcome.exit_code = attempt, ExitCode.STOPPED
        else:
            outcome.failed = attempt
            outcome.exit_code = attempt.exit_code or ExitCode.INTERNAL

    def _find_unapproved(self, outcome: RunOutcome) -> str:
        """Return the digest of a data set that needs an approval, or nothing."""
        assert outcome.preparation is not None
        digest = outcome.preparation.digest
        is_asked = self._run.needs_approval or self._approved is not None
        return digest if is_asked and digest != self._approved else ""

    def _run_stage(self, stage: Stage, environment: Mapping[str, str]) -> StageOutcome:
        is_pinned = self._approved is not None and stage is not Stage.PREPARE
        pin = ("--data-digest", str(self._approved)) if is_pinned else ()
        for delay in (*self._delays, None):
            self._display.start_stage(stage)
            process = StageProcess(
                stage, self._run.job_file, self._run.log_dir, environment, arguments=pin
            )
            attempt = process.run(self._display.show_event)
            self._display.end_stage(stage, is_ok=attempt.is_ok, summary=_summary(attempt))
            if delay is None or not _may_pass(attempt):
                break
            cause = attempt.failure.message if attempt.failure else f"exit code {attempt.exit_code}"
            self._display.note(f"{stage}: {cause}; trying again in {duration_text(delay)}")
            self._sleep(delay)
        return attempt

    def _note_missing_gpu(self) -> None:
        if self._run.job.spec.resources.gpus_per_node > 0 and not has_gpu():
            self._display.note(
                "no GPU on this machine: running on CPU, with "
                f"{_processes(self._run.job.world_size)} (world size as the job asks)"
            )


def _may_pass(attempt: StageOutcome) -> bool:
    """Return whether a retry may succeed; after a lack of memory training takes less."""
    if attempt.was_stopped:
        return False
    if attempt.exit_code == ExitCode.OUT_OF_MEMORY:
        return attempt.stage is Stage.TRAIN
    return attempt.exit_code in (ExitCode.RETRYABLE, ExitCode.HANG)


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def stage_environment(run: LocalRun) -> dict[str, str]:
    """Return the environment of the stages of a local run."""
    environment = dict(os.environ)
    environment[Environment.WORK_DIR] = str(run.work_dir)
    environment[Environment.TERMINATION_LOG] = str(run.log_dir / "termination.json")
    environment.setdefault(Environment.CACHE_DIR, str(cache_root()))
    environment["PYTHONUNBUFFERED"] = "1"
    if not has_gpu():
        environment[Environment.ALLOW_CPU] = "1"
    # A rank, push address or disk of a surrounding pod does not belong to this run.
    for name in (
        Environment.NODE_RANK,
        Environment.RENDEZVOUS_HOST,
        Environment.PROGRESS_URL,
        Environment.SCRATCH_BYTES,
    ):
        environment.pop(name, None)
    return environment


def has_gpu() -> bool:
    """Whether a GPU's device file is there; asking its driver would take seconds."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    return any(Path(device).exists() for device in GPU_DEVICES)


def explain_stop(outcome: RunOutcome, command: list[str]) -> str:
    """Say in a line where a stop met a run, what is kept and how the run goes on; else nothing."""
    again = " ".join(shlex.quote(part) for part in command)
    if outcome.stopped_at is not None:
        return f"stopped before stage {outcome.stopped_at} ran{KEPT}. To go on: {again}"
    failed = outcome.failed
    if failed is None or outcome.exit_code != ExitCode.STOPPED:
        return ""
    words = KEPT
    if failed.failure is not None and failed.failure.step is not None:
        words = f" after saving step {failed.failure.step}"
    elif failed.failure is not None:
        told = failed.failure.message.removeprefix("stopped on request")
        words = told if told != failed.failure.message else f": {told}"
    return f"stopped in stage {failed.stage}{words}. To go on: {again}"


def explain_failure(outcome: RunOutcome, command: list[str]) -> str:
    """Return the cause of a failure, the log, and the next step.

    ``command`` is the command line that runs the job again.
    """
    failed = outcome.failed
    assert failed is not None
    again = " ".join(shlex.quote(part) for part in command)
    lines: list[str] = []
    if failed.failure is not None:
        reason = f" ({failed.failure.reason})" if failed.failure.reason else ""
        lines.append(f"stage {failed.stage} failed{reason}: {failed.failure.message}")
    elif failed.exit_code > KILLED_BASE:
        number = failed.exit_code - KILLED_BASE
        lines.append(
            f"stage {failed.stage} was killed by signal {number}"
            + (", most likely for lack of memory" if number == 9 else "")
        )
    else:
        lines.append(f"stage {failed.stage} ended with exit code {failed.exit_code} without a word")
    is_unexplained = failed.failure is None or failed.exit_code == ExitCode.INTERNAL
    if is_unexplained and failed.log_tail:
        lines += ["", "the end of its log:", *_indented(failed.log_tail), ""]
    if failed.failure is not None and failed.failure.reason == "DiskFull":
        lines.append(MORE_SPACE)
    lines.append(f"log: {failed.log_file}")
    if failed.exit_code not in (ExitCode.USER_ERROR, ExitCode.DATA_ERROR):
        lines.append(f"run again, it goes on where it stopped: {again}")
    return "\n".join(lines)


def explain_hold(outcome: RunOutcome, approved: str | None, command: list[str]) -> str:
    """Return which data set waits for an approval, its location, and how to continue.

    Args:
        outcome: A run that stopped before training.
        approved: The digest that was approved; None for none.
        command: The command line of the run, without its approval.
    """
    prepared = outcome.preparation
    assert prepared is not None
    again = " ".join(shlex.quote(part) for part in [*command, "--approve-data", prepared.digest])
    other = f"; what was approved is {approved}" if approved else ""
    rows = prepared.rows
    return (
        f"nobody has approved data set {prepared.digest}{other}\n"
        f"rows: {rows.train} training, {rows.validation} validation, {rows.test} held-out\n"
        f"report: {prepared.uri}/report.html\n"
        f"to train on it, once somebody has looked at it:\n  {again}"
    )


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _summary(attempt: StageOutcome) -> str:
    took = duration_text(attempt.seconds)
    if not attempt.is_ok:
        return f"exit code {attempt.exit_code} after {took}"
    result: dict[str, Any] = attempt.result or {}
    if result.get("reused"):
        return f"reused an earlier result, {took}"
    facts = ""
    if attempt.stage is Stage.PREPARE:
        rows = result.get("rows", {})
        facts = f"{rows.get('train')} train / {rows.get('validation')} validation / "
        facts += f"{rows.get('test')} test rows, "
    elif attempt.stage is Stage.TRAIN:
        resumed = result.get("resumedFromStep")
        facts = f"{result.get('step')} steps{f' (resumed at {resumed})' if resumed else ''}, "
    elif attempt.stage is Stage.EVALUATE:
        facts = f"{result.get('numSamples')} held-out samples, "
    return f"{facts}{took}"


@contextmanager
def removing_raw_copies(work_dir: Path) -> Iterator[None]:
    """Remove what a stage that was stopped or killed could not remove itself."""
    try:
        yield
    finally:
        shutil.rmtree(work_dir / RAW_COPIES, ignore_errors=True)
