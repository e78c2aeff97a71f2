"""Checkpoints reach storage behind training: in order, within a budget, and no failure is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.storage import patience
from finetune_trainer.storage.local import FileStore
from finetune_trainer.train.checkpoint import complete_steps, fetch_newest
from finetune_trainer.train.parent.outbox import Outbox
from finetune_trainer.train.ranks import durable
from finetune_trainer.train.ranks.durable import DurableCheckpoints
from kit.processes.eventually import eventually

pytestmark = pytest.mark.slow  # it needs torch


class GatedStore(FileStore):
    """Lets an upload pass only while its gate is open; may refuse it then."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.failure: TrainerError | None = None

    def upload_file(self, path: Path, key: str, **options: Any) -> None:
        assert self.gate.wait(timeout=60)
        if self.failure is not None:
            raise self.failure
        super().upload_file(path, key, **options)


class Run:
    """What Trainer does around a callback."""

    def __init__(
        self,
        folder: Path,
        *,
        budget_bytes: int = 0,
        patience: float = 60,
        resumed_from: int = 0,
        num_weights: int = 1,
        save_seconds: Callable[[], float] | None = None,
    ) -> None:
        self.store = GatedStore(folder / "store")
        self.output = folder / "out"
        self.output.mkdir()
        self.curve = folder / "metrics.jsonl"
        self.told: list[str] = []
        self.args: Any = SimpleNamespace(
            output_dir=str(self.output), local_process_index=0, world_size=1
        )
        self.control = SimpleNamespace(should_save=False, should_training_stop=False)
        self.state: Any = SimpleNamespace(global_step=0, is_world_process_zero=True)
        self.outbox = Outbox(
            self.store,
            budget_bytes=budget_bytes,
            tell=self.told.append,
            patience_seconds=patience,
        )
        self.durable = DurableCheckpoints(
            self.store,
            "c",
            outbox=self.outbox,
            keep=2,
            curve=self.curve,
            curve_key="metrics.jsonl",
            inputs={"revision": "r1"},
            resumed_from=resumed_from,
            tell=self.told.append,
            save_seconds=save_seconds,
        )
        self.written: list[bool] = []
        self.trainer: Any = SimpleNamespace(
            args=self.args,
            state=self.state,
            model=torch.nn.Linear(num_weights, 1, bias=False),
            _save_checkpoint=self._write,
        )
        self.durable.attach(self.trainer)
        self.call("on_train_begin")

    def call(self, event: str) -> None:
        getattr(self.durable, event)(self.args, self.state, self.control)

    def step(self) -> None:
        self.state.global_step += 1
        self.curve.write_text(f"{self.state.global_step}\n")
        self.call("on_step_end")

    def save(self) -> Path:
        self.trainer._save_checkpoint(None, None)
        self.call("on_save")
        return self.output / f"checkpoint-{self.state.global_step}"

    def _write(self, *_: Any) -> None:
        self.written.append(self.outbox.is_idle())
        folder = self.output / f"checkpoint-{self.state.global_step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps("x" * 1000))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "backoff_seconds", lambda failures: 0.02)
    monkeypatch.setattr(durable, "POLL_SECONDS", 0.05)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.store.gate.set()


@pytest.fixture
def buffered(tmp_path: Path) -> Iterator[Run]:
    """A run whose disk may hold three checkpoints, and that bears an outage of half a second."""
    run = Run(tmp_path, budget_bytes=3500, patience=0.5)
    yield run
    run.store.gate.set()


def test_training_goes_on_while_a_checkpoint_is_on_its_way(run: Run) -> None:
    run.step()
    local = run.save()
    for _ in range(3):
        run.step()
    assert complete_steps(run.store, "c") == []
    assert (local / "trainer_state.json").exists()
    run.store.gate.set()
    eventually(lambda: complete_steps(run.store, "c") == [1])
    eventually(lambda: not local.exists())
    # The curve as it was at the save, although training has written to it since.
    assert run.store.read_bytes("metrics.jsonl") == b"1\n"
    run.step()
    assert run.durable.stall_seconds < 1


def test_next_save_waits_for_the_checkpoint_on_its_way_and_says_so(run: Run) -> None:
    run.step()
    run.save()
    run.step()
    threading.Timer(1.2, run.store.gate.set).start()
    run.save()
    assert complete_steps(run.store, "c") == [1]
    assert run.durable.stall_seconds > 1
    assert "at step 2 for storage to take checkpoint of step 1" in run.told[0]


def test_room_is_made_before_a_checkpoint_is_written(run: Run) -> None:
    run.step()
    run.save()
    run.step()
    threading.Timer(0.2, run.store.gate.set).start()
    run.save()
    assert run.written == [True, True]


@pytest.mark.parametrize(("num_weights", "fits"), [(100, True), (250, False)])
def test_the_first_checkpoint_is_expected_by_the_trained_weights(
    tmp_path: Path, num_weights: int, fits: bool
) -> None:
    run = Run(tmp_path, budget_bytes=3500, num_weights=num_weights)
    run.outbox.submit("best weights", 1000, lambda store, _: run.store.gate.wait(timeout=60))
    run.step()
    if not fits:
        threading.Timer(0.2, run.store.gate.set).start()
    run.save()
    assert run.written == [not fits]


def test_the_checkpoint_that_a_run_resumed_from_makes_room_for_the_next(tmp_path: Path) -> None:
    run = Run(tmp_path, resumed_from=4)
    run.store.gate.set()
    resumed = run.output / "checkpoint-4"
    resumed.mkdir()
    run.state.global_step = 4
    run.step()
    assert resumed.exists()
    run.durable.make_room(run.args, run.state, 1000)
    assert not resumed.exists()


def test_end_of_training_leaves_nothing_on_its_way(run: Run, tmp_path: Path) -> None:
    run.step()
    run.save()
    threading.Timer(0.2, run.store.gate.set).start()
    run.call("on_train_end")
    found = fetch_newest(run.store, "c", tmp_path / "fetched")
    assert found is not None
    assert found.step == 1
    assert list(run.output.iterdir()) == []


@pytest.mark.parametrize("event", ["on_step_end", "save", "on_train_end"])
def test_upload_that_failed_for_good_surfaces_at_the_next_boundary(run: Run, event: str) -> None:
    run.step()
    run.save()
    run.store.failure = StorageError("StoreConflict", "somebody changed it")
    run.store.gate.set()
    eventually(lambda: run.outbox.failure is not None)
    run.state.global_step += 1
    with pytest.raises(StorageError) as failure:
        run.save() if event == "save" else run.call(event)
    assert failure.value.reason == "StoreConflict"
    assert complete_steps(run.store, "c") == []


AWAY = StorageError("Unreachable", "the bucket is gone.")
REFUSED = UserError("AccessDenied", "the key is not known.")


@pytest.mark.parametrize("failure", [AWAY, REFUSED])
def test_checkpoints_of_an_outage_wait_on_disk_and_are_stored_in_order(
    buffered: Run, failure: TrainerError
) -> None:
    run = buffered
    run.store.failure = failure
    run.store.gate.set()
    for _ in range(3):
        run.step()
        run.save()
    assert {path.name for path in run.output.glob("checkpoint-*")} == {
        "checkpoint-1",
        "checkpoint-2",
        "checkpoint-3",
    }
    assert run.durable.stall_seconds < 0.1
    eventually(lambda: run.told)
    order: list[str] = []
    write = run.store.write_bytes

    def note(key: str, data: bytes, **options: Any) -> None:
        order.append(key)
        write(key, data, **options)

    run.store.write_bytes = note  # type: ignore[method-assign]
    run.store.failure = None
    run.call("on_train_end")
    assert order == [f"c/step-{step}/manifest.json" for step in (1, 2, 3)]
    assert complete_steps(run.store, "c") == [2, 3]
    assert run.store.read_bytes("metrics.jsonl") == b"3\n"
    assert list(run.output.iterdir()) == []
    assert "training goes on, what it saves waits on the local disk" in run.told[0]
    assert any(text.startswith("storage answers again") for text in run.told)


def test_full_budget_waits_for_the_store_and_goes_on_with_it(buffered: Run) -> None:
    run = buffered
    run.store.failure = AWAY
    run.store.gate.set()
    for _ in range(3):
        run.step()
        run.save()

    def come_back() -> None:
        run.store.failure = None

    threading.Timer(0.3, come_back).start()
    run.step()
    run.save()
    assert run.durable.stall_seconds > 0.2
    run.call("on_train_end")
    assert complete_steps(run.store, "c") == [3, 4]


@pytest.mark.parametrize("event", ["save", "on_train_end"])
def test_store_that_stays_away_ends_a_full_budget_and_a_finished_run_as_storage_errors(
    buffered: Run, event: str
) -> None:
    run = buffered
    run.store.failure = REFUSED
    run.store.gate.set()
    for _ in range(3):
        run.step()
        run.save()
    run.step()
    with pytest.raises(StorageError) as failure:
        run.save() if event == "save" else run.call(event)
    assert failure.value.exit_code == 73
    assert "the key is not known. It stayed so for" in failure.value.message
    assert "lost with this pod: checkpoint of step 1, checkpoint of step 2" in failure.value.message


def test_store_that_takes_nothing_and_says_nothing_is_given_up(buffered: Run) -> None:
    run = buffered
    run.step()
    run.save()
    with pytest.raises(StorageError) as failure:
        run.call("on_train_end")
    assert failure.value.reason == "StorageStalled"
    assert "checkpoint of step 1" in failure.value.message


def test_everyone_who_waits_is_seen_to_be_alive(buffered: Run) -> None:
    beats: list[int] = []
    buffered.durable._on_wait = lambda: beats.append(1)
    buffered.step()
    buffered.save()
    threading.Timer(0.3, buffered.store.gate.set).start()
    buffered.call("on_train_end")
    assert len(beats) >= 3


def test_checkpoint_on_its_way_is_not_lost_when_training_fails(run: Run) -> None:
    run.step()
    run.save()
    threading.Timer(0.2, run.store.gate.set).start()
    run.durable.drain()
    assert complete_steps(run.store, "c") == [1]


def test_what_lies_beyond_the_resumed_step_is_removed_before_training(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    store.write_bytes("c/step-9/manifest.json", b"{}")
    Run(tmp_path)
    assert list(store.list("c/")) == []


def test_saves_cost_at_most_a_twentieth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, cost = 1000.0, 0.0
    monkeypatch.setattr(durable, "time", SimpleNamespace(monotonic=lambda: now))
    run = Run(tmp_path, save_seconds=lambda: cost)
    run.store.gate.set()

    def saves(*, is_stopping: bool = False) -> bool:
        run.control.should_save, run.control.should_training_stop = True, is_stopping
        run.step()
        if run.control.should_save:
            run.save()
        return bool(run.control.should_save)

    assert saves()  # nothing is known of the cost of the first
    cost = 90.0
    for seconds, expected in ((85, False), (1700, False), (1800, True), (1885, False)):
        now = 1000.0 + seconds
        assert saves() is expected
    assert saves(is_stopping=True)
    assert len([line for line in run.told if "checkpoint.everySteps" in line]) == 1
    # An hour is the most that a crash may cost, however dear a save is.
    cost, now = 1000.0, now + 3599
    assert not saves()
    now += 1
    assert saves()


def test_a_users_number_of_steps_is_obeyed(tmp_path: Path) -> None:
    run = Run(tmp_path, save_seconds=None)
    for _ in range(3):
        run.control.should_save = True
        run.step()
        assert run.control.should_save
