"""What the end of a node's ranks is called, from the files they left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_trainer.train.launch import _failure_of, lost_peer


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("rank 1: exitcode  : -9 (pid: 12)", "RankKilled"),
        ("traceback : Signal 9 (SIGKILL) received by PID 12", "RankKilled"),
        ("[PG 0 Rank 1] Watchdog caught collective operation timeout: WorkNCCL(...)", "PeerLost"),
        ("torch.distributed.DistBackendError: NCCL error ... ncclRemoteError", "PeerLost"),
        ("RuntimeError: [gloo] Connection closed by peer [10.0.0.2]:51234", "PeerLost"),
        ("ValueError: the rate 1e-9 is odd", "RanksFailed"),
        ("", "RanksFailed"),
    ],
)
def test_ranks_that_left_no_reason_are_told_by_their_log(
    tmp_path: Path, log: str, reason: str
) -> None:
    (tmp_path / "ranks.log").write_text(log)
    assert _failure_of(tmp_path, 1, oom_killed=False).reason == reason


def test_a_rank_that_failed_by_itself_says_more_than_those_that_lost_it(tmp_path: Path) -> None:
    for rank, reason, message in (
        (0, "DistBackendError", "NCCL error: remote process exited"),
        (1, "OutOfMemory", "out of memory"),
    ):
        record = {"exit_code": 77 if rank else 70, "reason": reason, "message": message}
        record["lost_peer"] = lost_peer(message)
        (tmp_path / f"failure-{rank}.json").write_text(json.dumps({**record, "rank": rank}))
    assert _failure_of(tmp_path, 1, oom_killed=False).reason == "OutOfMemory"
    (tmp_path / "failure-1.json").unlink()
    assert _failure_of(tmp_path, 1, oom_killed=False).reason == "PeerLost"
