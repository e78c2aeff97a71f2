"""A fork with its libraries imported is, to whoever starts it, the process that was asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kit.processes.eventually import eventually
from kit.processes.preloaded import PreloadedPopen, is_preloadable

STAGE = [sys.executable, "-m", "finetune_trainer", "train", "--job"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux"),
]


def start(kind: type[subprocess.Popen[Any]], job: Path, **options: Any) -> subprocess.Popen[Any]:
    return kind(
        [*STAGE, str(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_it_says_and_ends_as_a_plain_process_does_in_its_own_folder(tmp_path: Path) -> None:
    said = {}
    for kind in (subprocess.Popen, PreloadedPopen):
        environment = {**ENVIRONMENT, "FINETUNE_TERMINATION_LOG": str(tmp_path / kind.__name__)}
        process = start(kind, Path("absent.json"), cwd=tmp_path, env=environment)
        stdout, _ = process.communicate(timeout=60)
        (event,) = map(json.loads, stdout.splitlines())
        words = json.loads((tmp_path / kind.__name__).read_text())
        said[kind] = (process.returncode, event, words)
    assert said[PreloadedPopen] == said[subprocess.Popen]
    assert said[PreloadedPopen][0] == 64
    assert "absent.json" in said[PreloadedPopen][1]["message"]


def test_it_leads_a_session_and_is_killed_with_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "job.json")  # it waits for somebody to write
    process = start(PreloadedPopen, tmp_path / "job.json", env=ENVIRONMENT)
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_it_hears_a_stop(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "job.json")
    words = tmp_path / "words"
    environment = {**ENVIRONMENT, "FINETUNE_TERMINATION_LOG": str(words)}
    process = start(PreloadedPopen, tmp_path / "job.json", env=environment)
    caught = Path(f"/proc/{process.pid}/status")
    bit = 1 << (signal.SIGTERM - 1)
    eventually(
        lambda: int(caught.read_text().partition("SigCgt:\t")[2].split()[0], 16) & bit, timeout=60
    )
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 79
    assert json.loads(words.read_text())["reason"] == "Stopped"


@pytest.mark.parametrize(
    ("command", "change"),
    [
        pytest.param([sys.executable, "-c", "pass", "x"], {}, id="another program"),
        pytest.param([sys.executable, "-m", "finetune_trainer", "plan"], {}, id="another command"),
        pytest.param(STAGE, {"OMP_NUM_THREADS": "2"}, id="more threads"),
        pytest.param(STAGE, {"PYTHONPATH": "/elsewhere"}, id="other code"),
        pytest.param(STAGE, {"LD_PRELOAD": "clock.so"}, id="another loader"),
    ],
)
def test_what_a_fork_would_not_be_starts_as_usual(
    command: list[str], change: dict[str, str]
) -> None:
    assert is_preloadable(STAGE, ENVIRONMENT)
    assert not is_preloadable(command, {**ENVIRONMENT, **change})
