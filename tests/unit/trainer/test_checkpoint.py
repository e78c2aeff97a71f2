"""A checkpoint exists once its manifest does; a damaged one is passed over."""

from __future__ import annotations

from pathlib import Path

from finetune_trainer.storage import ObjectStore, StorageAccess, open_store
from finetune_trainer.train.checkpoint import (
    complete_steps,
    drop_old,
    fetch_newest,
    files_of,
    upload_files,
    write_manifest,
)


def publish(store: ObjectStore, folder: Path, step: int, *, commit: bool = True) -> None:
    source = folder / f"source-{step}"
    source.mkdir()
    (source / "weights.bin").write_bytes(f"weights of {step}".encode())
    (source / "training_args.bin").write_bytes(b"pickle")
    entries = upload_files(store, f"c/step-{step}", source, files_of(source))
    assert [entry.path for entry in entries] == ["weights.bin"]
    if commit:
        write_manifest(store, f"c/step-{step}", entries, step=step, world_size=1)


def test_newest_complete_checkpoint_is_fetched(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store", StorageAccess())
    for step in (5, 10, 100):
        publish(store, tmp_path, step)
    publish(store, tmp_path, 200, commit=False)
    found = fetch_newest(store, "c", tmp_path / "local")
    assert found is not None
    step, folder = found
    assert step == 100
    assert folder.name == "checkpoint-100"
    assert (folder / "weights.bin").read_text() == "weights of 100"


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store", StorageAccess())
    publish(store, tmp_path, 5)
    publish(store, tmp_path, 10)
    (tmp_path / "store/c/step-10/weights.bin").write_bytes(b"weights of XX")
    found = fetch_newest(store, "c", tmp_path / "local")
    assert found is not None
    assert found[0] == 5


def test_old_checkpoints_go_and_nothing_to_resume_is_none(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store", StorageAccess())
    assert fetch_newest(store, "c", tmp_path / "local") is None
    for step in (1, 2, 3, 4):
        publish(store, tmp_path, step)
    drop_old(store, "c", keep=2)
    assert complete_steps(store, "c") == [3, 4]
    assert not list(store.list("c/step-1/"))
