"""One contract for all stores that can be written: S3 and a folder."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.storage import AlreadyExists, ObjectNotFound, open_store


@pytest.fixture(params=["s3 bucket", "s3 with prefix", "file"])
def store(request, tmp_path):
    if request.param == "file":
        return open_store(f"file://{tmp_path}/store")
    s3 = request.getfixturevalue("s3")
    uri = s3.new_uri() if "prefix" in request.param else f"s3://{s3.new_bucket()}"
    return s3.open(uri)


KEYS = ["a", "b/c d", "b/\u00e4 \u4e2d+%&=", "b-", "b.json", "z/y/x/w"]


def test_objects_come_back_under_their_keys(store):
    for key in KEYS:
        store.write_bytes(key, key.encode())
    listed = sorted(store.list(), key=lambda info: info.key)
    assert [info.key for info in listed] == sorted(KEYS)
    assert [info.num_bytes for info in listed] == [len(key.encode()) for key in sorted(KEYS)]
    for key in KEYS:
        assert store.read_bytes(key) == key.encode()
        assert store.exists(key)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("b/", ["b/c d", "b/\u00e4 \u4e2d+%&="]),
        ("b", ["b-", "b.json", "b/c d", "b/\u00e4 \u4e2d+%&="]),
        ("z/y/x", ["z/y/x/w"]),
        ("none", []),
    ],
)
def test_a_listing_starts_with_its_prefix(store, prefix, expected):
    for key in KEYS:
        store.write_bytes(key, b"")
    assert sorted(info.key for info in store.list(prefix)) == sorted(expected)


def test_an_overwritten_object_has_another_version(store):
    store.write_bytes("a", b"1")
    first = next(store.list())
    store.write_bytes("a", b"2")
    assert store.read_bytes("a") == b"2"
    assert next(store.list()).version != first.version


def test_what_is_not_there_is_reported_missing(store, tmp_path):
    assert not store.exists("absent")
    for read in (
        lambda: store.read_bytes("absent"),
        lambda: list(store.read_chunks("absent")),
        lambda: store.download_file("absent", tmp_path / "target"),
    ):
        with pytest.raises(ObjectNotFound, match="absent"):
            read()
    assert not (tmp_path / "target").exists()


def test_deleting_twice_is_harmless(store):
    store.write_bytes("a/b", b"1")
    store.delete("a/b")
    store.delete("a/b")
    assert list(store.list()) == []


@pytest.mark.parametrize("size", [0, 1, 8 * 1024 * 1024, 20 * 1024 * 1024 + 17])
def test_files_of_any_size_come_back_equal(store, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "source").write_bytes(data)
    store.upload_file(tmp_path / "source", "f")
    store.download_file("f", tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target").read_bytes() == data
    assert b"".join(store.read_chunks("f")) == data
    assert os.listdir(tmp_path / "deep") == ["target"]


@pytest.mark.parametrize("size", [10, 9 * 1024 * 1024])
def test_a_conditional_upload_does_not_replace(store, tmp_path, size):
    (tmp_path / "one").write_bytes(b"1" * size)
    (tmp_path / "two").write_bytes(b"2" * size)
    store.upload_file(tmp_path / "one", "f", if_absent=True)
    with pytest.raises(AlreadyExists):
        store.upload_file(tmp_path / "two", "f", if_absent=True)
    assert store.read_bytes("f") == b"1" * size


def test_of_many_conditional_writers_one_wins(store):
    def write(number):
        try:
            store.write_bytes("f", b"%d" % number, if_absent=True)
        except AlreadyExists:
            return None
        return number

    with ThreadPoolExecutor(16) as pool:
        winners = [number for number in pool.map(write, range(32)) if number is not None]
    assert len(winners) == 1
    assert store.read_bytes("f") == b"%d" % winners[0]


@pytest.mark.parametrize("key", ["../a", "/a", "a/../../b"])
def test_keys_cannot_leave_the_store(store, key):
    with pytest.raises(UserError):
        store.write_bytes(key, b"")
    with pytest.raises(UserError):
        store.read_bytes(key)
