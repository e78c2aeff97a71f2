"""Ask the trainer something about a job that is no stage: what it would do, what is in its data."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from pydantic import ValidationError

from finetune_api.trainer import Event
from finetune_cli.errors import CliError
from finetune_cli.localjob import LocalRun
from finetune_cli.runner import stage_environment
from finetune_cli.stages import read_tail, trainer_command


def ask_trainer(
    run: LocalRun, question: str, *arguments: str, doing: str, log_stays: bool = False
) -> dict[str, Any]:
    """Ask the trainer a question about the run's job, in a process of its own.

    Args:
        run: The job and its folders.
        question: Command of the trainer that answers; it writes JSON to the file after ``--out``.
        arguments: What else the command is told.
        doing: What failed, in the message of a crash.
        log_stays: The log outlives this call, so a message may name it.

    Raises:
        CliError: The trainer's own reason, or the end of its log where it gave none.
    """
    run.log_dir.mkdir(parents=True, exist_ok=True)
    run.job_file.write_text(run.job.to_json())
    out, log = run.work_dir / f"{question}.json", run.log_dir / f"{question}.log"
    command = trainer_command(question, "--job", str(run.job_file), "--out", str(out))
    with log.open("w", encoding="utf-8") as stderr:
        ended = subprocess.run(
            [*command, *arguments],
            env=stage_environment(run), stdout=subprocess.PIPE, stderr=stderr, text=True,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    if ended.returncode:
        failure = find_failure(ended.stdout)
        if failure is None:
            where = f"\nlog: {log}" if log_stays else ""
            raise CliError(
                f"{doing} ended with exit code {ended.returncode}:\n{read_tail(log)}{where}",
                exit_code=ended.returncode,
            )
        raise CliError(f"{failure.message} ({failure.reason})", exit_code=ended.returncode)
    answer: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return answer


def find_failure(output: str) -> Event | None:
    """Return the last failure among the events that a process of the trainer wrote."""
    for line in reversed(output.splitlines()):
        try:
            event = Event.model_validate_json(line)
        except ValidationError:
            continue
        if event.event == "failure":
            return event
    return None
