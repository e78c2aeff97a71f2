"""Folders are published whole, once, and read only when every byte is right."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from finetune_trainer.errors import InternalError, StorageError
from finetune_trainer.storage import (
    ChecksumMismatch,
    IncompleteFolder,
    OtherWriterWon,
    fetch_folder,
    find_manifest,
    open_store,
    publish_folder,
    verify_folder,
)
from finetune_trainer.storage.local import FileStore

FILES = {"adapter.safetensors": b"weights" * 1000, "config.json": b"{}", "sub/empty": b""}

READERS = {
    "fetch": lambda store, target: fetch_folder(store, "run/adapter", target),
    "verify": lambda store, target: verify_folder(store, "run/adapter"),
}


def make_folder(path, files=FILES):
    for key, data in files.items():
        (path / key).parent.mkdir(parents=True, exist_ok=True)
        (path / key).write_bytes(data)
    return path


def read_folder(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "manifest.json"
    }


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def published(store, tmp_path):
    publish_folder(
        store, "run/adapter", make_folder(tmp_path / "out"), created_by="t", inputs={"data": "d1"}
    )
    return store


def test_a_published_folder_comes_back_equal(published, tmp_path):
    manifest = fetch_folder(published, "run/adapter", tmp_path / "in")
    assert read_folder(tmp_path / "in") == FILES
    assert (manifest.created_by, manifest.inputs) == ("t", {"data": "d1"})
    assert find_manifest(open_store(str(tmp_path / "in")), "") == manifest


def test_publishing_again_changes_nothing(published, tmp_path):
    before = {info.key: info.version for info in published.list()}
    again = publish_folder(published, "run/adapter", tmp_path / "out", created_by="other")
    assert again.created_by == "t"
    assert {info.key: info.version for info in published.list()} == before


def test_other_content_is_refused_and_the_first_stays(published, tmp_path):
    other = make_folder(tmp_path / "other", FILES | {"config.json": b"{1}"})
    with pytest.raises(OtherWriterWon, match=r"1 files differ, first 'config\.json'"):
        publish_folder(published, "run/adapter", other, created_by="u")
    fetch_folder(published, "run/adapter", tmp_path / "in")
    assert read_folder(tmp_path / "in") == FILES


class DyingStore(FileStore):
    """Breaks after a number of writes, as a killed process does."""

    def __init__(self, root, num_writes):
        super().__init__(root)
        self.num_writes = num_writes

    def _put(self, *arguments, **options):
        if self.num_writes == 0:
            raise StorageError("Unreachable", "killed")
        self.num_writes -= 1
        super()._put(*arguments, **options)


@pytest.mark.parametrize("num_writes", range(4))
@pytest.mark.parametrize("content", ["same content", "other content"])
def test_after_a_crash_at_any_write_a_second_attempt_publishes(
    store, tmp_path, num_writes, content, monkeypatch
):
    monkeypatch.setattr("finetune_trainer.storage.parallel.NUM_THREADS", 1)
    first = (
        FILES if content == "same content" else {key: data + b"?" for key, data in FILES.items()}
    )
    with pytest.raises(StorageError, match="killed"):
        publish_folder(
            DyingStore(store.root, num_writes),
            "p",
            make_folder(tmp_path / "first", first),
            created_by="a",
        )
    assert find_manifest(store, "p") is None
    with pytest.raises(IncompleteFolder):
        fetch_folder(store, "p", tmp_path / "too-early")

    publish_folder(store, "p", make_folder(tmp_path / "second"), created_by="b")
    fetch_folder(store, "p", tmp_path / "in")
    assert read_folder(tmp_path / "in") == FILES
    left = num_writes if content == "other content" else 0
    assert len(verify_folder(store, "p").extra_files) == left


def test_of_rivals_with_other_content_one_wins_whole(store, tmp_path):
    def publish(number):
        content = {key: data + b"%d" % number for key, data in FILES.items()}
        try:
            publish_folder(
                store, "p", make_folder(tmp_path / f"{number}", content), created_by=f"{number}"
            )
        except OtherWriterWon:
            return None
        return number

    with ThreadPoolExecutor(16) as pool:
        winners = [number for number in pool.map(publish, range(16)) if number is not None]
    assert len(winners) == 1
    fetch_folder(store, "p", tmp_path / "in")
    assert read_folder(tmp_path / "in") == read_folder(tmp_path / f"{winners[0]}")


def test_a_folder_without_manifest_is_refused_and_described(store, tmp_path):
    store.write_bytes("p/weights", b"1")
    store.write_bytes("p/other", b"2")
    with pytest.raises(IncompleteFolder) as caught:
        fetch_folder(store, "p", tmp_path / "in")
    assert "store/p has no manifest.json" in caught.value.message
    assert "other, weights" in caught.value.message
    with pytest.raises(IncompleteFolder, match="nothing under"):
        verify_folder(store, "q")


def test_a_folder_of_published_folders_names_them_and_is_not_to_be_deleted(store, tmp_path):
    for number in range(7):
        publish_folder(store, f"datasets/{number}", make_folder(tmp_path / "out"), created_by="t")
    for prefix in ("runs/team/a/u1/adapter", "versions/team/a/1"):
        publish_folder(store, prefix, tmp_path / "out", created_by="t")
    store.write_bytes("runs/team/a/u1/dataset.json", b"{}")
    with pytest.raises(IncompleteFolder) as caught:
        verify_folder(store)
    message = caught.value.message
    named = [f"{store.uri}/{key}" for key in ("datasets/0", "datasets/1", "datasets/2")]
    named += [f"{store.uri}/{key}" for key in ("runs/team/a/u1/adapter", "versions/team/a/1")]
    assert all(f"{name}," in message for name in named)
    assert "and 4 more" in message
    assert "delete" not in message
    for name in named:
        verify_folder(open_store(name))
    with pytest.raises(IncompleteFolder) as caught:
        fetch_folder(store, "runs/team/a", tmp_path / "in")
    assert f"such folders: {store.uri}/runs/team/a/u1/adapter. Name it" in caught.value.message


def test_deleting_is_not_advised_when_not_all_was_seen(store, monkeypatch):
    own = f"datasets/{'a' * 64}"
    for number in range(3):
        store.write_bytes(f"{own}/{number}", b"1")
    with pytest.raises(IncompleteFolder, match="or delete the folder"):
        verify_folder(store, own)
    monkeypatch.setattr("finetune_trainer.storage.lookup._NUM_LISTED", 3)
    with pytest.raises(IncompleteFolder) as caught:
        verify_folder(store, own)
    assert "delete" not in caught.value.message


@pytest.mark.parametrize(
    "folder", ["photos", "datasets/mine", "runs", "runs/team/a", "runs/team/a/u1", "adapter", ""]
)
def test_a_folder_of_somebody_else_is_to_be_kept(store, folder):
    store.write_bytes(f"{folder}/holiday.jpg".strip("/"), b"1")
    with pytest.raises(IncompleteFolder) as caught:
        verify_folder(store, folder)
    assert "holiday.jpg" in caught.value.message
    assert "was not published by this program" in caught.value.message
    assert "delete" not in caught.value.message


@pytest.mark.parametrize("read", READERS)
def test_a_tampered_file_is_named_and_not_kept(published, tmp_path, read):
    published.write_bytes("run/adapter/config.json", b"[]")
    with pytest.raises(ChecksumMismatch) as caught:
        READERS[read](published, tmp_path / "in")
    assert "config.json" in caught.value.message
    assert (
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" in caught.value.message
    )
    assert (
        "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945" in caught.value.message
    )
    assert not (tmp_path / "in" / "config.json").exists()
    assert not (tmp_path / "in" / "manifest.json").exists()


@pytest.mark.parametrize("read", READERS)
def test_a_deleted_file_is_named(published, tmp_path, read):
    published.delete("run/adapter/sub/empty")
    with pytest.raises(ChecksumMismatch, match="sub/empty"):
        READERS[read](published, tmp_path / "in")


def test_verify_names_every_wrong_file_and_reports_extra_ones(published):
    published.write_bytes("run/adapter/extra.bin", b"!")
    assert verify_folder(published, "run/adapter").extra_files == ("extra.bin",)
    published.write_bytes("run/adapter/config.json", b"[]")
    published.delete("run/adapter/adapter.safetensors")
    with pytest.raises(ChecksumMismatch) as caught:
        verify_folder(published, "run/adapter")
    assert "2 of 3 files" in caught.value.message
    assert "adapter.safetensors is missing" in caught.value.message


def test_only_what_differs_is_downloaded(published, tmp_path, monkeypatch):
    fetch_folder(published, "run/adapter", tmp_path / "in")
    (tmp_path / "in" / "config.json").write_bytes(b"edited")
    got = []
    real = FileStore.download_file
    monkeypatch.setattr(
        FileStore,
        "download_file",
        lambda self, key, path: (got.append(key), real(self, key, path))[1],
    )
    fetch_folder(published, "run/adapter", tmp_path / "in")
    assert got == ["run/adapter/config.json"]
    assert read_folder(tmp_path / "in") == FILES


def test_a_part_of_a_folder_is_fetched_without_a_manifest(published, tmp_path):
    fetch_folder(published, "run/adapter", tmp_path / "in", only={"config.json"})
    assert read_folder(tmp_path / "in") == {"config.json": b"{}"}
    assert not (tmp_path / "in" / "manifest.json").exists()


def test_a_hostile_manifest_cannot_write_outside_the_folder(store, tmp_path):
    hostile = {"files": [{"path": "../../escaped", "bytes": 1, "sha256": "a" * 64}]}
    store.write_bytes("p/manifest.json", json.dumps(hostile).encode())
    with pytest.raises(StorageError, match="not a manifest"):
        fetch_folder(store, "p", tmp_path / "in" / "deep")
    assert not (tmp_path / "escaped").exists()


def test_a_link_to_a_folder_is_not_published(store, tmp_path):
    folder = make_folder(tmp_path / "out")
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(InternalError, match="link"):
        publish_folder(store, "p", folder, created_by="t")
    assert list(store.list()) == []
