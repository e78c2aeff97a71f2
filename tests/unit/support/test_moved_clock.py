"""A process whose wall clock is moved knows no other, and its monotonic one goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kit.processes.moved_clock import build, environment, unfit

PROGRAM = """
import datetime, sys, time
for line in sys.stdin:
    now = datetime.datetime.now(datetime.timezone.utc).timestamp()
    print(time.time(), now, time.monotonic(), flush=True)
"""


@pytest.mark.skipif(unfit() is not None, reason=str(unfit()))
def test_wall_clock_of_a_running_process_is_moved_and_nothing_else(tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment(build(tmp_path), offset)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for seconds in (0, 3600, -3600):
            offset.write_text(str(seconds))
            deadline = time.monotonic() + 60
            while True:
                print("?", file=process.stdin, flush=True)
                wall, utc, monotonic = map(float, process.stdout.readline().split())
                # The clock may be moved between the program's two looks at it.
                off = [clock - time.time() for clock in (wall, utc)]
                if all(abs(each - seconds) < 60 for each in off):
                    break
                assert time.monotonic() < deadline, off
            assert abs(monotonic - time.monotonic()) < 60
        process.stdin.close()
        assert process.wait() == 0
