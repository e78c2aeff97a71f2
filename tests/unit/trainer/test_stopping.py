"""A stop is heard from the first instruction on, whatever the main thread does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import Environment, Event, ExitCode, FailureClass
from finetune_trainer import process, stopping
from kit.cluster.faults import fault
from kit.processes.eventually import eventually

LISTEN = """
import os, sys, time
from pathlib import Path
from finetune_trainer import stopping
stopping.listen("train")
flag = Path(sys.argv[1])
def ready():
    print("ready", flush=True)
"""
DEAF = """
ready()
while True:
    try:
        time.sleep(0.01)
    except BaseException:
        pass
"""
ACTS = """
with stopping.on_stop("it saves", reason="StoppedAfterSave", act=flag.touch):
    ready()
    while not flag.exists():
        time.sleep(0.01)
    {then}
print("went on", flush=True)
"""


class Stopped:
    """A process that was asked to stop, and what it left."""

    def __init__(self, folder: Path, script: str, **env: str) -> None:
        log = folder / "termination"
        process = subprocess.Popen(
            [sys.executable, "-c", LISTEN + script, str(folder / "flag")],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, Environment.TERMINATION_LOG: str(log), **env},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        self.stdout = process.communicate(timeout=60)[0]
        self.exit_code = process.returncode
        self.words: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {}


def test_names_and_numbers_are_those_of_the_contract() -> None:
    assert stopping.EXIT_CODE == ExitCode.STOPPED
    assert stopping.FAILURE_CLASS == FailureClass.STOPPED
    assert stopping.GRACE_SECONDS == Environment.GRACE_SECONDS
    assert process.TERMINATION_LOG == Environment.TERMINATION_LOG


def test_a_main_thread_that_swallows_everything_is_stopped_with_words(tmp_path: Path) -> None:
    stopped = Stopped(tmp_path, DEAF)
    assert stopped.exit_code == ExitCode.STOPPED
    words = TerminationMessage.model_validate(stopped.words)
    assert (words.failure_class, words.reason) == (FailureClass.STOPPED, "Stopped")
    event = Event.model_validate_json(stopped.stdout)
    assert (event.event, event.message) == ("failure", words.message)


def test_a_stage_that_acts_ends_by_itself(tmp_path: Path) -> None:
    stopped = Stopped(tmp_path, ACTS.format(then="os._exit(3)"))
    assert (stopped.exit_code, stopped.stdout) == (3, "")


def test_nothing_is_begun_after_the_work_that_was_stopped(tmp_path: Path) -> None:
    stopped = Stopped(tmp_path, ACTS.format(then=""))
    assert stopped.exit_code == ExitCode.STOPPED
    assert "went on" not in stopped.stdout


def test_a_stage_that_does_not_come_to_its_end_says_so_before_it_is_killed(tmp_path: Path) -> None:
    stopped = Stopped(tmp_path, ACTS.format(then="time.sleep(60)"), FINETUNE_GRACE_SECONDS="1")
    assert stopped.exit_code == ExitCode.STOPPED
    assert (stopped.words["reason"], stopped.words["message"]) == ("StoppedAfterSave", "it saves")


def test_a_stop_does_not_come_between_the_end_and_its_words(tmp_path: Path) -> None:
    script = "stopping.conclude()\nready()\ntime.sleep(0.5)\nprint('done', flush=True)"
    stopped = Stopped(tmp_path, script)
    assert (stopped.exit_code, stopped.stdout, stopped.words) == (0, "done\n", {})


def test_a_stop_while_the_interpreter_ends_does_not_take_the_exit_code_away(
    tmp_path: Path,
) -> None:
    script = """
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number={number}):
        kill(pid, number)  # modules are cleared after the handlers
last = Last()
stopping.conclude()
ready()
"""
    for number in (signal.SIGTERM, signal.SIGINT):
        log = tmp_path / "termination"
        process = subprocess.run(
            [sys.executable, "-c", LISTEN + script.format(number=int(number)), str(log)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=60,
            check=False,
        )
        assert (process.returncode, process.stdout) == (0, "ready\n"), process.stderr


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
def test_a_stop_is_heard_before_the_first_import_that_takes_time(
    tmp_path: Path, stage: str
) -> None:
    mark, log = tmp_path / "mark", tmp_path / "termination"
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune_trainer", stage, "--job", str(tmp_path / "job.json")],
        env={
            **os.environ,
            **fault("import", mark, module="pydantic"),
            Environment.TERMINATION_LOG: str(log),
        },
    )
    eventually(mark.exists, timeout=60, interval=0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == ExitCode.STOPPED
    assert TerminationMessage.model_validate_json(log.read_text()).stage == stage
