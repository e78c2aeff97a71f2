"""Runs a planned job on this machine, shows it, and says how it ended."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import typer
from rich.console import Console

from finetune_api.protocol.trainer import Environment, Stage
from finetune_cli.errors import CliError
from finetune_cli.exits import STORAGE
from finetune_cli.extras import DATA_MODULES, require_trainer
from finetune_cli.local.job import LocalRun
from finetune_cli.local.runner import (
    RUN_STAGES,
    Runner,
    RunOutcome,
    explain_failure,
    explain_hold,
    explain_stop,
)
from finetune_cli.reports.summary import find_obstacle, print_summary, to_json, write_result
from finetune_cli.views.display import make_display

NO_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def run_planned(
    planned: LocalRun,
    *,
    until: str | None = None,
    approved_data: str | None = None,
    as_json: bool = False,
    result_file: Path | None = None,
    command: list[str],
    on_end: Callable[[RunOutcome], None] | None = None,
) -> None:
    """Run the stages of a job up to the end, or to one of them.

    Args:
        planned: The job.
        until: The last stage to run; None runs all.
        approved_data: Digest of the approved data set, or None.
        as_json: Print the result as JSON to stdout, and progress to stderr.
        result_file: Also write the result there.
        command: The command line that runs the job again, for messages.
        on_end: Called with the outcome, in place of printing it to stdout; the summary then goes to
            stderr.

    Raises:
        CliError: There is no such stage, libraries are missing, or a stage failed.
        typer.Exit: The goal was missed.
    """
    last = _read_stage(until)
    if result_file is not None and (obstacle := find_obstacle(result_file)):
        raise CliError(f"--result {result_file}: {obstacle}; name a file that can be written")
    _require_what_it_needs(planned, last)
    console = Console(stderr=as_json or on_end is not None)
    outcome = _run(planned, console, approved_data=approved_data, until=last)
    result = json.dumps(to_json(outcome), indent=1)
    if as_json:
        print(result, flush=True)
    else:
        print_summary(outcome, console)
    if on_end is not None:
        on_end(outcome)
    problems = []
    if outcome.unapproved:
        problems.append(explain_hold(outcome, approved_data, _without_approval(command)))
    if stopped := explain_stop(outcome, command):
        problems.append(stopped)
    elif outcome.failed is not None:
        problems.append(explain_failure(outcome, command))
    if result_file is not None and (problem := write_result(result_file, result)):
        problems.append(problem)
    if problems:
        raise CliError("\n".join(problems), exit_code=int(outcome.exit_code) or STORAGE)
    if outcome.exit_code:
        raise typer.Exit(int(outcome.exit_code))


def _require_what_it_needs(planned: LocalRun, last: Stage | None) -> None:
    if last is Stage.PREPARE:
        require_trainer(DATA_MODULES, to="preparing data on this machine")
    else:
        require_trainer()
    if last in (None, Stage.EVALUATE):
        _require_engine(planned)
        _require_red_team(planned)


def _run(
    planned: LocalRun, console: Console, *, approved_data: str | None, until: Stage | None
) -> RunOutcome:
    display = make_display(console)
    try:
        return Runner(planned, display, approved_data=approved_data, until=until).run()
    except OSError as error:
        if error.errno not in NO_WRITES:
            raise
        raise CliError(
            f"cannot write to {error.filename or planned.work_dir}: {error.strerror}; free space "
            "there, or name another folder with --work-dir",
            exit_code=STORAGE,
        ) from error
    finally:
        display.close()


def _require_engine(planned: LocalRun) -> None:
    """Refuse an engine that no local run can start, before training."""
    if planned.job.spec.evaluation.engine == "Transformers" or os.environ.get(
        Environment.ENGINE_DIR
    ):
        return
    raise CliError(
        "evaluation.engine VLLM: on a cluster the operator puts a vLLM server beside the "
        "evaluation, and here there is none; add --set evaluation.engine=Transformers"
    )


def _require_red_team(planned: LocalRun) -> None:
    """Refuse a red team that no local run can start, before training."""
    if planned.job.spec.evaluation.red_team is None or os.environ.get(Environment.RED_TEAM_DIR):
        return
    raise CliError(
        "evaluation.redTeam: on a cluster the operator puts garak beside the evaluation, and here "
        "there is none; take redTeam out of the job"
    )


def _read_stage(name: str | None) -> Stage | None:
    if name is None:
        return None
    try:
        return RUN_STAGES[[stage.value for stage in RUN_STAGES].index(name)]
    except ValueError as error:
        stages = ", ".join(stage.value for stage in RUN_STAGES)
        raise CliError(f"--until {name}: there is no such stage; choose {stages}") from error


def _without_approval(command: list[str]) -> list[str]:
    kept: list[str] = []
    arguments = iter(command[1:])
    for argument in arguments:
        if argument == "--approve-data":
            next(arguments, None)
        elif not argument.startswith("--approve-data="):
            kept.append(argument)
    return ["finetune", *kept]
