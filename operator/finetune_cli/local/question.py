"""Ask the trainer something about a job that is no stage: what it would do, what is in its data."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from finetune_api.protocol.trainer import Event
from finetune_cli.errors import CliError
from finetune_cli.local.job import LocalRun
from finetune_cli.local.runner import stage_environment
from finetune_cli.local.stages import read_tail, trainer_command


def ask_trainer(
    run: LocalRun,
    question: str,
    *arguments: str,
    doing: str,
    log_stays: bool = False,
    on_event: Callable[[Event], None] = lambda _: None,
) -> dict[str, Any]:
    """Ask the trainer a question about the run's job, in its own process.

    Args:
        run: The job and its folders.
        question: Command of the trainer; it writes JSON to the file after ``--out``.
        arguments: Other arguments of the command.
        doing: The action, in the message of a crash.
        log_stays: The log outlives this call, so a message may name it.
        on_event: Called with the events of the trainer.

    Raises:
        CliError: The trainer's own reason, or the end of its log without one.
    """
    run.log_dir.mkdir(parents=True, exist_ok=True)
    run.job_file.write_text(run.job.to_json())
    out, log = run.work_dir / f"{question}.json", run.log_dir / f"{question}.log"
    command = trainer_command(question, "--job", str(run.job_file), "--out", str(out))
    failure: Event | None = None
    with (
        log.open("w", encoding="utf-8") as stderr,
        subprocess.Popen(
            [*command, *arguments],
            env=stage_environment(run),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            stdin=subprocess.DEVNULL,
        ) as process,
    ):
        assert process.stdout is not None
        for event in read_events(process.stdout):
            failure = event if event.event == "failure" else failure
            on_event(event)
    if process.returncode:
        if failure is None:
            where = f"\nlog: {log}" if log_stays else ""
            raise CliError(
                f"{doing} ended with exit code {process.returncode}:\n{read_tail(log)}{where}",
                exit_code=process.returncode,
            )
        raise CliError(f"{failure.message} ({failure.reason})", exit_code=process.returncode)
    answer: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return answer


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events among the lines that a process of the trainer writes."""
    for line in lines:
        try:
            yield Event.model_validate_json(line)
        except ValidationError:
            continue
