"""A checkpoint exists once its manifest does; a damaged one is passed over and never counts."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.errors import InternalError, StorageError
from finetune_trainer.storage import ObjectStore, OtherWriterWon, StorageAccess, open_store
from finetune_trainer.storage.local import FileStore
from finetune_trainer.train.checkpoint import (
    commit_checkpoint,
    complete_steps,
    delete_prefix,
    drop_all,
    drop_newer,
    drop_old,
    fetch_newest,
    files_of,
    steps_to_drop,
    upload_checkpoint,
)

EMPTY_SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path}/store", StorageAccess())


def publish(store: ObjectStore, step: int, *, text: str = "", commit: bool = True) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        (source / "state.json").write_text(json.dumps(text or f"state of {step}"))
        (source / "optimizer.pt").write_bytes(EMPTY_SAFETENSORS)
        (source / "training_args.bin").write_bytes(b"pickle")
        (source / "zero_to_fp32.py").write_bytes(b"code")
        entries = upload_checkpoint(store, f"c/step-{step}", source)
    assert [entry.path for entry in entries] == ["optimizer.pt.safetensors", "state.json"]
    if commit:
        commit_checkpoint(store, f"c/step-{step}", entries, step=step, inputs={"worldSize": "1"})


def newest(store: ObjectStore, folder: Path) -> int | None:
    found = fetch_newest(store, "c", folder)
    return found.step if found else None


def test_newest_complete_checkpoint_is_fetched(store: ObjectStore, tmp_path: Path) -> None:
    for step in (5, 10, 100):
        publish(store, step)
    publish(store, 200, commit=False)
    found = fetch_newest(store, "c", tmp_path / "local")
    assert found is not None
    assert found.step == 100
    assert found.folder.name == "checkpoint-100"
    assert json.loads((found.folder / "state.json").read_text()) == "state of 100"
    assert {path.name for path in found.folder.iterdir()} == {"state.json", "optimizer.pt"}


def rewrite_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def plant(folder: Path, name: str, data: bytes) -> None:
    """Put a file in and make the manifest agree, as whoever may write to the bucket can."""
    (folder / name).write_bytes(data)

    def change(body: dict) -> None:
        body["files"] = [file for file in body["files"] if file["path"] != name]
        digest = hashlib.sha256(data).hexdigest()
        body["files"].append({"path": name, "bytes": len(data), "sha256": digest})

    rewrite_manifest(folder, change)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "other bytes": lambda folder: (folder / "state.json").write_bytes(b'"XXXXXXXXXXX"'),
    "a missing file": lambda folder: (folder / "state.json").unlink(),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "a broken manifest": lambda folder: (folder / "manifest.json").write_bytes(b'{"files": ['),
    "a manifest of nothing": lambda folder: rewrite_manifest(folder, lambda b: b.update(files=[])),
    "the manifest of another step": lambda folder: rewrite_manifest(
        folder, lambda b: b["inputs"].update(step="7")
    ),
    "a pickle": lambda folder: plant(folder, "optimizer.pt", pickle.dumps(1)),
    "a pickle that is called safetensors": lambda folder: plant(
        folder, "optimizer.pt.safetensors", pickle.dumps(1)
    ),
    "a program": lambda folder: plant(folder, "setup.py", b"print()"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_falls_back_and_the_next_saves_are_kept(
    store: ObjectStore, tmp_path: Path, damage: str
) -> None:
    publish(store, 5)
    publish(store, 10)
    DAMAGE[damage](tmp_path / "store/c/step-10")
    told: list[int] = []
    found = fetch_newest(store, "c", tmp_path / "l", on_damaged=lambda step, _: told.append(step))
    assert found is not None
    assert (found.step, told) == (5, [10])
    assert not (tmp_path / "l/checkpoint-10").exists()
    drop_newer(store, "c", than=5)
    publish(store, 7)
    drop_old(store, "c", newest=7, keep=1)
    assert complete_steps(store, "c") == [7]
    assert newest(store, tmp_path / "l") == 7


def test_storage_that_fails_is_no_reason_to_fall_back(store: ObjectStore, tmp_path: Path) -> None:
    publish(store, 5)
    publish(store, 10)
    (tmp_path / "local").write_text("a file where the folder should be")
    with pytest.raises(StorageError) as failure:
        fetch_newest(store, "c", tmp_path / "local")
    assert failure.value.reason == "LocalIoError"


def test_only_steps_below_a_limit_are_looked_at(store: ObjectStore, tmp_path: Path) -> None:
    for step in (5, 10):
        publish(store, step)
    found = fetch_newest(store, "c", tmp_path / "local", below=10)
    assert found is not None
    assert found.step == 5


def test_old_checkpoints_and_unfinished_ones_go(store: ObjectStore, tmp_path: Path) -> None:
    assert newest(store, tmp_path / "local") is None
    for step in (1, 2, 3, 4):
        publish(store, step)
    publish(store, 0, commit=False)
    drop_old(store, "c", newest=4, keep=2)
    assert complete_steps(store, "c") == [3, 4]
    assert {item.key.split("/")[1] for item in store.list("c/")} == {"step-3", "step-4"}
    store.write_bytes("c/best-3/weights", b"")
    drop_all(store, "c")
    assert not list(store.list("c/"))


def test_same_step_is_committed_once(store: ObjectStore) -> None:
    publish(store, 5)
    publish(store, 5)  # the same bytes: another attempt came as far
    with pytest.raises(OtherWriterWon):
        publish(store, 5, text="other")
    assert complete_steps(store, "c") == [5]


@given(
    complete=st.sets(st.integers(0, 30), min_size=1),
    torn=st.sets(st.integers(0, 30)),
    keep=st.integers(1, 5),
    data=st.data(),
)
def test_what_was_just_committed_never_goes(
    complete: set[int], torn: set[int], keep: int, data: st.DataObject
) -> None:
    step = data.draw(st.sampled_from(sorted(complete)))
    dropped = steps_to_drop(complete | torn, complete, newest=step, keep=keep)
    assert step not in dropped
    assert all(other < step for other in dropped)
    left = sorted(s for s in complete - set(dropped) if s <= step)
    assert left == sorted(s for s in complete if s <= step)[-keep:]
    assert not {s for s in torn - complete if s < step} - set(dropped)


class Crash(BaseException):
    """The process is killed."""


class CrashingStore(FileStore):
    """Dies before its n-th change."""

    def __init__(self, root: Path, changes: int) -> None:
        super().__init__(root)
        self.changes = changes

    def _count(self) -> None:
        if self.changes == 0:
            raise Crash
        self.changes -= 1

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        self._count()
        super().write_bytes(key, data, if_absent=if_absent)

    def upload_file(self, path: Path, key: str, **options: Any) -> None:
        self._count()
        super().upload_file(path, key, **options)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)


def attempt(store: ObjectStore, local: Path, *, keep: int, attempt_number: int) -> Iterator[int]:
    """Run one attempt that saves every two steps to step 8; yields what is durable."""
    found = fetch_newest(store, "c", local)
    start = found.step if found else 0
    drop_newer(store, "c", than=start)
    drop_old(store, "c", newest=start, keep=keep)
    yield start
    for step in range(start + 2, 9, 2):
        publish(store, step, text=f"step {step} of attempt {attempt_number}")
        yield step
        drop_old(store, "c", newest=step, keep=keep)
        yield step


@pytest.mark.slow
@settings(max_examples=25)
@given(
    crashes=st.lists(st.integers(0, 14), max_size=4),
    damaged=st.lists(st.booleans(), min_size=4, max_size=4),
    keep=st.integers(1, 3),
)
def test_at_any_crash_point_the_newest_durable_checkpoint_can_be_loaded(
    crashes: list[int], damaged: list[bool], keep: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, durable = Path(folder) / "store", 0
        for number, changes in enumerate(crashes):
            try:
                crashing = CrashingStore(root, changes)
                for step in attempt(crashing, Path(folder) / "l", keep=keep, attempt_number=number):
                    durable = step
            except Crash:
                pass
            plain = FileStore(root)
            steps = complete_steps(plain, "c")
            # A commit may have been the last thing that happened before the crash.
            assert (newest(plain, Path(folder) / "l") or 0) >= durable
            if damaged[number] and len(steps) > 1:
                (root / f"c/step-{steps[-1]}/state.json").write_bytes(b'"damaged"')
                durable = steps[-2]
                shutil.rmtree(Path(folder) / "l")
                assert newest(plain, Path(folder) / "l") == durable
        assert [*attempt(FileStore(root), Path(folder) / "l", keep=keep, attempt_number=9)][-1] == 8
        assert 1 <= len(complete_steps(FileStore(root), "c")) <= keep + 1


def test_manifest_goes_first_so_that_a_part_never_looks_whole(tmp_path: Path) -> None:
    publish(FileStore(tmp_path), 5)
    with pytest.raises(Crash):
        delete_prefix(CrashingStore(tmp_path, 1), "c/step-5")
    assert complete_steps(FileStore(tmp_path), "c") == []
    assert list(FileStore(tmp_path).list("c/step-5/"))


def test_state_files_are_stored_under_the_name_of_their_format(tmp_path: Path) -> None:
    for name in (
        "global_step3/zero_pp_rank_0.pt",
        "rng_state_1.pth",
        "latest",
        "README.md",
        "tokenizer.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(files_of(tmp_path)) == [
        "global_step3/zero_pp_rank_0.pt.safetensors",
        "latest",
        "rng_state_1.pth.safetensors",
    ]


def test_state_that_needs_a_pickle_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    (tmp_path / "optimizer_0").mkdir()
    (tmp_path / "optimizer_0" / ".metadata").write_bytes(b"")
    with pytest.raises(InternalError, match=r"optimizer_0/\.metadata"):
        files_of(tmp_path)
