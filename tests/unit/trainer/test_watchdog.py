"""Ranks hang when none of them gives a sign of life for longer than any of them may."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_trainer.train.parent.beats import Beat, BeatWriter, Phase, dump_stacks, read_beats
from finetune_trainer.train.parent.watchdog import Limits, find_blame, is_hung
from kit.processes.eventually import eventually

HEAD = "Current thread 0x1 (most recent call first):\n"
TORCH = "/site-packages/torch"
REDUCE = f'{HEAD}  File "{TORCH}/distributed/distributed_c10d.py", line 9 in all_reduce\n'
BACKWARD = f'{HEAD}  File "{TORCH}/autograd/graph.py", line 7 in _engine_run_backward\n'
LOADER = (
    'Thread 0x2 (most recent call first):\n  File "/threading.py", line 1 in wait\n\n'
    f'{HEAD}  File "/data.py", line 3 in read\n  File "/torch/data.py", line 4 in fetch\n'
)
LOSS = f'{HEAD}  File "/trainer.py", line 5 in item\n'


def beat(rank: int = 0, *, at: float = 1000.0, count: int = 10, **values: object) -> Beat:
    known = {"pid": 1, "phase": Phase.TRAINING, "step": 4, "step_seconds": 2.0, **values}
    return Beat(rank=rank, at=at, count=count, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("silent_for", "values", "limit", "hangs"),
    [
        (599, {}, None, False),
        (601, {}, None, True),
        (899, {"step_seconds": 90.0}, None, False),
        (901, {"step_seconds": 90.0}, None, True),
        (4, {}, 5, False),
        (6, {}, 5, True),
        (3599, {"phase": Phase.STARTING}, 5, False),
        (3601, {"phase": Phase.STARTING}, 5, True),
        (3599, {"phase": Phase.SAVING}, None, False),
        (3601, {"phase": Phase.SAVING}, None, True),
        (5000, {"phase": Phase.SAVING}, 6000, False),
    ],
)
def test_a_rank_may_be_silent_for_as_long_as_its_work_takes(
    silent_for: float, values: dict[str, object], limit: int | None, hangs: bool
) -> None:
    limits = Limits(step_seconds=limit)
    assert is_hung([beat(**values)], limits, now=1000 + silent_for, started=0) is hangs  # type: ignore[arg-type]


def test_ranks_that_never_began_hang_after_an_hour() -> None:
    assert not is_hung([], Limits(step_seconds=5), now=3599, started=0)
    assert is_hung([], Limits(), now=3601, started=0)


def test_one_rank_that_gets_on_is_enough() -> None:
    beats = [beat(0, at=0.0), beat(1, at=1000.0)]
    assert not is_hung(beats, Limits(), now=1001, started=0)
    saving = [beat(0, at=0.0), beat(1, at=0.0, phase=Phase.SAVING)]
    assert not is_hung(saving, Limits(), now=1001, started=0)


@pytest.mark.parametrize(
    ("counts", "stacks", "other_nodes", "rank", "said"),
    [
        ((11, 10), (REDUCE, LOADER), False, 1, "rank 1 is behind, after step 4 while training, at "
         "data.py:3 in read < data.py:4 in fetch; the others wait at distributed_c10d.py:9 in all"),
        ((10, 10), (REDUCE, LOADER), False, 1, "rank 1 is behind"),
        ((10, 10), (REDUCE, BACKWARD), False, None, "all ranks wait for each other after step 4"),
        ((10, 10), (REDUCE, REDUCE), True, None, "all ranks wait for another node"),
        ((10, 10), (LOSS, LOSS), False, None, "all ranks wait for each other"),
        ((10, 10), (LOSS, LOADER), False, 0, "rank 0 is behind"),
        ((10, 10), (REDUCE, ""), False, 1, "at an unknown place (it answers no signal)"),
    ],
)  # fmt: skip
def test_the_rank_with_the_fewest_beats_is_to_blame(
    counts: tuple[int, int],
    stacks: tuple[str, str],
    other_nodes: bool,
    rank: int | None,
    said: str,
) -> None:
    beats = [beat(n, count=count) for n, count in enumerate(counts)]
    blame = find_blame(
        beats, dict(enumerate(stacks)), Limits(), now=1700.0, has_other_nodes=other_nodes
    )
    assert blame.rank == rank
    assert said in blame.message
    assert "no rank has made a step for 700 s (limit 600 s, median step 2 s)" in blame.message


def test_one_rank_alone_is_to_blame_wherever_it_is() -> None:
    assert find_blame([beat()], {0: LOADER}, Limits(), now=1700, has_other_nodes=False).rank == 0
    nobody = find_blame([], {}, Limits(), now=1700, has_other_nodes=False)
    assert (nobody.rank, nobody.message) == (None, "no rank has started, and none says why")


def test_beats_are_read_while_they_are_written(tmp_path: Path) -> None:
    first, second = BeatWriter(tmp_path, 1), BeatWriter(tmp_path, 0)
    (tmp_path / "beat-2").write_text("")  # about to be written
    first.beat(Phase.SAVING)
    second.step_ended(7, Phase.TRAINING)
    beats = read_beats(tmp_path)
    first.close()
    second.close()
    assert [(b.rank, b.phase, b.step, b.count, b.pid) for b in beats] == [
        (0, Phase.TRAINING, 7, 2, os.getpid()),
        (1, Phase.SAVING, 0, 2, os.getpid()),
    ]


STUCK = """
import ctypes, sys
from pathlib import Path
from finetune_trainer.train.parent.beats import BeatWriter
sleep = ctypes.PyDLL(None).sleep  # keeps the interpreter's lock
beats = BeatWriter(Path(sys.argv[1]), 0)
def deep_inside():
    sleep(600)
deep_inside()
"""


def test_a_rank_that_is_stuck_in_a_library_says_where(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK, str(tmp_path)])
    try:
        beats = eventually(lambda: read_beats(tmp_path), timeout=60)
        stacks = eventually(
            lambda: (found := dump_stacks(tmp_path, beats))[0].count("deep_inside") and found,
            timeout=60,
        )
    finally:
        process.kill()
        process.wait()
    blame = find_blame(beats, stacks, Limits(), now=beats[0].at + 4000, has_other_nodes=False)
    assert "at <string>:8 in deep_inside" in blame.message
