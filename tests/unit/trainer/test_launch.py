"""What the end of a node's ranks is called, from the files they left."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.launch import _failure_of


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("rank 1: exitcode  : -9 (pid: 12)", "RankKilled"),
        ("traceback : Signal 9 (SIGKILL) received by PID 12", "RankKilled"),
        ("ValueError: the rate 1e-9 is odd", "RanksFailed"),
        ("", "RanksFailed"),
    ],
)
def test_ranks_that_left_no_reason_are_told_by_their_log(
    tmp_path: Path, log: str, reason: str
) -> None:
    (tmp_path / "ranks.log").write_text(log)
    assert _failure_of(tmp_path, 1, oom_killed=False).reason == reason
