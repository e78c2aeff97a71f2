"""A folder keeps the promises of an object store."""

from __future__ import annotations

import errno
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.storage import AlreadyExists, local, open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def secret(tmp_path):
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "token").write_text("hf_secret")
    return folder


def test_links_are_followed_inside_the_folder(store):
    store.write_bytes("versions/1/rows.jsonl", b"{}")
    (store.root / "latest").symlink_to("versions/1")
    (store.root / "rows.jsonl").symlink_to("latest/rows.jsonl")
    assert store.read_bytes("latest/rows.jsonl") == b"{}"
    assert store.read_bytes("rows.jsonl") == b"{}"


def test_links_are_not_followed_out_of_the_folder(store, secret, tmp_path):
    store.write_bytes("data/a.jsonl", b"{}")
    (store.root / "data" / "file.jsonl").symlink_to(secret / "token")
    (store.root / "data" / "folder").symlink_to(secret)
    for key in ("data/file.jsonl", "data/folder/token"):
        for read in (
            store.read_bytes,
            lambda key: b"".join(store.read_chunks(key)),
            lambda key: store.download_file(key, tmp_path / "copy"),
        ):
            with pytest.raises(UserError, match=r"secrets.*links are followed inside") as caught:
                read(key)
            assert caught.value.reason == "LinkLeavesStore"
    assert not (tmp_path / "copy").exists()
    for change in (
        lambda: store.write_bytes("data/folder/token", b"x"),
        lambda: store.upload_file(secret / "token", "data/folder/new"),
        lambda: store.delete("data/folder/token"),
    ):
        with pytest.raises(UserError):
            change()
    assert files_below(secret) == ["token"]
    assert (secret / "token").read_text() == "hf_secret"


def test_a_store_may_itself_be_reached_by_a_link(store, tmp_path):
    store.write_bytes("a", b"1")
    (tmp_path / "link").symlink_to(store.root)
    assert open_store(str(tmp_path / "link")).read_bytes("a") == b"1"


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("links", ["hard links", "no hard links"])
def test_of_many_conditional_writers_one_wins_and_its_bytes_stay(store, monkeypatch, links):
    if links == "no hard links":

        def refuse(*_):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(local.os, "link", refuse)

    def write(number):
        try:
            store.write_bytes("a/b", b"%d" % number, if_absent=True)
        except AlreadyExists:
            return None
        return number

    with ThreadPoolExecutor(16) as pool:
        winners = [number for number in pool.map(write, range(64)) if number is not None]
    assert len(winners) == 1
    assert store.read_bytes("a/b") == b"%d" % winners[0]
    assert files_below(store.root) == ["a", "a/b"]


def test_a_failed_write_leaves_the_old_object_and_nothing_else(store, monkeypatch):
    store.write_bytes("a", b"old")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local.os, "fsync", fail)
    with pytest.raises(StorageError) as caught:
        store.write_bytes("a", b"new")
    assert caught.value.reason == "DiskFull"
    assert str(store.root / "a") in caught.value.message
    assert store.read_bytes("a") == b"old"
    assert files_below(store.root) == ["a"]


def test_a_file_size_limit_reads_as_a_full_disk(store, tmp_path):
    source = tmp_path / "large"
    source.write_bytes(bytes(3_000_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(StorageError) as caught:
            store.upload_file(source, "large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.reason == "DiskFull"
    assert "3000000 bytes needed" in caught.value.message
    assert not store.exists("large")
    assert files_below(store.root) == []


def test_the_listing_hides_files_that_are_being_written(store):
    store.write_bytes("a", b"1")
    (store.root / ".b.0123.uploading").write_bytes(b"half")
    assert [info.key for info in store.list()] == ["a"]


def test_deleting_takes_what_a_killed_writer_of_the_object_left(store):
    store.write_bytes("a/b[1]", b"1")
    for name in (".b[1].0123.uploading", ".other.0123.uploading"):
        (store.root / "a" / name).write_bytes(b"half")
    store.delete("a/b[1]")
    assert files_below(store.root) == ["a", "a/.other.0123.uploading"]


def test_deleting_the_last_object_removes_its_folders(store):
    store.write_bytes("a/b/c", b"1")
    store.write_bytes("a/d", b"2")
    store.delete("a/b/c")
    assert files_below(store.root) == ["a", "a/d"]


def test_an_empty_folder_that_a_killed_delete_left_goes_with_its_neighbours(store):
    store.write_bytes("kept", b"1")
    store.write_bytes("a/b/c", b"1")
    store.write_bytes("a/d/e", b"1")
    (store.root / "a" / "killed").mkdir()
    store.delete("a/b/c")
    assert files_below(store.root) == ["a", "a/d", "a/d/e", "kept"]
    store.delete("a/d/e")
    assert files_below(store.root) == ["kept"]


def test_writers_and_deleters_of_one_folder_do_not_trip_over_each_other(store):
    def work(number):
        for _ in range(30):
            store.write_bytes(f"f/{number}", b"x")
            store.delete(f"f/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(store.list()) == []


def test_a_folder_that_another_delete_takes_in_between_is_gone_and_no_failure(store, monkeypatch):
    store.write_bytes("f/mine", b"x")
    real_scandir = os.scandir

    def scandir_once_the_folder_is_gone(path):
        if Path(path) == store.root / "f":
            os.rmdir(path)
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_once_the_folder_is_gone)
    store.delete("f/mine")
    assert list(store.list()) == []


def test_an_unreadable_object_says_so(store):
    store.write_bytes("folder/file", b"1")
    with pytest.raises(StorageError, match="There is no file"):
        store.read_bytes("folder")


def test_objects_are_flushed_before_they_get_their_name(store, monkeypatch):
    calls = []
    real_fsync, real_link = os.fsync, os.link
    monkeypatch.setattr(local.os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(
        local.os, "link", lambda *names: (calls.append("link"), real_link(*names))[1]
    )
    store.write_bytes("a", b"1", if_absent=True)
    assert calls == ["fsync", "link", "fsync"]
