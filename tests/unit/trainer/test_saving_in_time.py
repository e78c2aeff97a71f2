"""A save that cannot fit what is left of the grace period is not begun, and that is told before."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_trainer.errors import Stopped
from finetune_trainer.train.ranks.callbacks import heartbeat
from finetune_trainer.train.ranks.callbacks.heartbeat import SaveClock
from finetune_trainer.train.ranks.callbacks.progress import StopRequest

pytestmark = pytest.mark.slow  # it needs torch


def state(step: int) -> Any:
    return SimpleNamespace(global_step=step, max_steps=10)


def control() -> Any:
    return SimpleNamespace(should_save=True, should_evaluate=True, should_training_stop=False)


ARGS: Any = SimpleNamespace(world_size=1)


@pytest.mark.parametrize(
    ("flag", "needed", "reason", "saves"),
    [
        ("", 500, "StoppedAfterSave", True),  # nobody knows how long there is
        ("60", 50, "StoppedAfterSave", True),
        ("60", 0, "StoppedAfterSave", True),  # nothing was saved yet: it is tried
        ("60", 70, "StoppedWithoutSave", False),
        ("-1", 5, "StoppedWithoutSave", False),
    ],
)
def test_a_save_is_begun_only_if_it_fits(
    tmp_path: Path, flag: str, needed: float, reason: str, saves: bool
) -> None:
    (tmp_path / "stop").write_text(flag and repr(time.monotonic() + float(flag)))
    asked = []
    stop = StopRequest(tmp_path / "stop", lambda validates: asked.append(validates) or needed)  # type: ignore[func-returns-value]
    told = control()
    stop.on_step_end(ARGS, state(4), told)
    assert told.should_training_stop
    assert (told.should_save, told.should_evaluate) == (saves, saves)
    assert asked in ([], [True])
    with pytest.raises(Stopped) as stopped:
        stop.raise_if_stopped(total_steps=10)
    assert stopped.value.reason == reason
    assert "at step 4 of 10" in stopped.value.message
    if not saves:
        assert f"a save, which takes {needed:.0f} s and " in stopped.value.message
        assert "Raise podTemplate.terminationGracePeriodSeconds" in stopped.value.message


def test_nobody_stops_who_was_not_asked_or_is_done(tmp_path: Path) -> None:
    stop, told = StopRequest(tmp_path / "stop", lambda _validates: 0.0), control()
    stop.on_step_end(ARGS, state(4), told)
    (tmp_path / "stop").touch()
    stop.on_step_end(ARGS, state(10), told)
    assert not told.should_training_stop
    stop.raise_if_stopped(total_steps=10)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: self.now))


def step(clock: Clock, saving: SaveClock, *, validates: float = 0, saves: float = 0) -> None:
    saving.on_step_begin(ARGS, state(1), control())
    clock.now += 10
    saving.on_step_end(ARGS, state(1), control())
    if validates:
        clock.now += validates
        saving.on_evaluate(ARGS, state(1), control())
    if saves:
        clock.now += saves
        saving.on_save(ARGS, state(1), control())


def test_a_grace_period_that_is_too_short_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stored = Clock(monkeypatch), [0.0]
    told: list[str] = []
    saving = SaveClock(
        grace_seconds=120,
        store_seconds=lambda: stored[0],
        stall_seconds=lambda: 0.0,
        tell=told.append,
    )
    step(clock, saving, validates=30, saves=20)
    assert saving.expect(validates=True) == 50
    stored[0] = 89.0
    step(clock, saving)
    assert told == []
    assert (saving.expect(validates=False), saving.expect(validates=True)) == (109, 139)
    stored[0] = 91.0
    for _ in range(2):
        step(clock, saving)
    assert len(told) == 1
    assert "step and checkpoint took 121 s, and the pod has 120 s" in told[0]
    assert "podTemplate.terminationGracePeriodSeconds to 242 or more" in told[0]


def test_without_a_grace_period_there_is_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    told: list[str] = []
    saving = SaveClock(
        grace_seconds=None,
        store_seconds=lambda: 900.0,
        stall_seconds=lambda: 0.0,
        tell=told.append,
    )
    step(clock, saving, saves=20)
    step(clock, saving)
    assert told == []


def test_waiting_for_storage_is_no_part_of_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stalled = Clock(monkeypatch), iter([0.0, 600.0])
    saving = SaveClock(
        grace_seconds=None,
        store_seconds=lambda: 5.0,
        stall_seconds=lambda: next(stalled),
        tell=print,
    )
    step(clock, saving, saves=620)
    assert saving.save_seconds == 25
