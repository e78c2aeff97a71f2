"""Checkpoints reach storage behind training: one at a time, and no failure is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.storage.local import FileStore
from finetune_trainer.train.checkpoint import complete_steps, fetch_newest
from finetune_trainer.train.ranks.durable import DurableCheckpoints
from support.eventually import eventually


class GatedStore(FileStore):
    """Lets an upload pass only while its gate is open; may refuse it then."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.is_broken = False

    def upload_file(self, path: Path, key: str, *, if_absent: bool = False) -> None:
        assert self.gate.wait(timeout=60)
        if self.is_broken:
            raise StorageError("Unreachable", "the bucket is gone")
        super().upload_file(path, key, if_absent=if_absent)


class Run:
    """What Trainer does around a callback."""

    def __init__(self, folder: Path) -> None:
        self.store = GatedStore(folder / "store")
        self.output = folder / "out"
        self.output.mkdir()
        self.curve = folder / "metrics.jsonl"
        self.told: list[str] = []
        self.args: Any = SimpleNamespace(
            output_dir=str(self.output), local_process_index=0, world_size=1
        )
        self.state: Any = SimpleNamespace(global_step=0, is_world_process_zero=True)
        self.durable = DurableCheckpoints(
            self.store,
            "c",
            keep=2,
            curve=self.curve,
            curve_key="metrics.jsonl",
            inputs={"revision": "r1"},
            resumed_from=0,
            tell=self.told.append,
        )
        self.call("on_train_begin")

    def call(self, event: str) -> None:
        getattr(self.durable, event)(self.args, self.state, SimpleNamespace())

    def step(self) -> None:
        self.state.global_step += 1
        self.curve.write_text(f"{self.state.global_step}\n")
        self.call("on_step_end")

    def save(self) -> Path:
        folder = self.output / f"checkpoint-{self.state.global_step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps(self.state.global_step))
        self.call("on_save")
        return folder


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
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
    assert "at step 2 for the checkpoint of step 1" in run.told[0]


def test_end_of_training_leaves_nothing_on_its_way(run: Run, tmp_path: Path) -> None:
    run.step()
    run.save()
    threading.Timer(0.2, run.store.gate.set).start()
    run.call("on_train_end")
    found = fetch_newest(run.store, "c", tmp_path / "fetched")
    assert found is not None
    assert found.step == 1
    assert list(run.output.iterdir()) == []


@pytest.mark.parametrize("event", ["on_step_end", "on_save", "on_train_end"])
def test_failed_upload_surfaces_at_the_next_boundary(run: Run, event: str) -> None:
    run.step()
    run.save()
    run.store.is_broken = True
    run.store.gate.set()
    eventually(lambda: run.durable._part is not None and run.durable._part.done())
    run.state.global_step += 1
    with pytest.raises(StorageError) as failure:
        run.call(event)
    assert failure.value.reason == "Unreachable"
    assert complete_steps(run.store, "c") == []


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
