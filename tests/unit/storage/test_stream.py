"""Reads survive whatever the network does, and never mix two versions of an object."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_trainer.errors import StorageError
from finetune_trainer.storage import stream
from finetune_trainer.storage.errors import ChangedObject, InterruptedRead
from finetune_trainer.storage.stream import OpenBody, download, partial_path, read_object


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(stream, "_backoff_seconds", lambda failures: 0.0)


class ScriptedSource:
    """Serves one object; each opening delivers at most the next number of bytes, then breaks."""

    def __init__(self, data: bytes, cuts=(), *, version="v1", has_ranges=True, says_size=True):
        self.data = data
        self.cuts = list(cuts)
        self.version = version
        self.has_ranges = has_ranges
        self.says_size = says_size
        self.offsets: list[int] = []

    def open_range(self, key: str, offset: int, version: str) -> OpenBody:
        self.offsets.append(offset)
        if (version and version != self.version) or offset > len(self.data):
            raise ChangedObject(key)
        start = offset if self.has_ranges else 0
        limit = self.cuts.pop(0) if self.cuts else None
        return OpenBody(
            offset=start,
            num_bytes=len(self.data) if self.says_size else None,
            version=self.version,
            chunks=self._chunks(self.data[start:], limit),
        )

    def _chunks(self, rest: bytes, limit: int | None) -> Iterator[bytes]:
        served = rest if limit is None else rest[:limit]
        for at in range(0, len(served), 7):
            yield served[at : at + 7]
        if limit is not None:
            raise InterruptedRead("connection reset")


cut_lists = st.lists(st.integers(1, 60), max_size=8)


@given(st.binary(max_size=200), cut_lists, st.booleans())
def test_every_byte_arrives_once_and_in_order_through_any_cuts(data, cuts, has_ranges):
    if not has_ranges:
        cuts = sorted(set(cuts))  # without ranges only a longer read brings something new
    source = ScriptedSource(data, cuts, has_ranges=has_ranges)
    assert b"".join(read_object(source, "k", uri="u")) == data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(0, 60), max_size=12))
def test_a_download_that_is_given_up_is_finished_by_the_next(tmp_path_factory, data, cuts):
    path = tmp_path_factory.mktemp("d") / "file"
    source = ScriptedSource(data, cuts)
    for _ in range(len(cuts) + 1):
        try:
            download(source, "k", path, uri="u")
            break
        except StorageError:
            assert not path.exists()
    assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_a_download_goes_on_where_a_killed_process_stopped(tmp_path):
    path, data = tmp_path / "file", bytes(range(200))
    with pytest.raises(StorageError):
        download(ScriptedSource(data, [50, 0, 0, 0, 0, 0]), "k", path, uri="u")
    assert partial_path(path).read_bytes() == data[:50]
    source = ScriptedSource(data)
    download(source, "k", path, uri="u")
    assert source.offsets == [50]
    assert path.read_bytes() == data


@pytest.mark.parametrize("size", [10, 50, 300])
def test_a_partial_file_of_another_version_is_thrown_away(tmp_path, size):
    path = tmp_path / "file"
    with pytest.raises(StorageError):
        download(ScriptedSource(b"o" * 200, [50, 0, 0, 0, 0, 0]), "k", path, uri="u")
    download(ScriptedSource(b"n" * size, version="v2"), "k", path, uri="u")
    assert path.read_bytes() == b"n" * size


def test_a_partial_file_without_a_version_is_not_trusted(tmp_path):
    path = tmp_path / "file"
    partial_path(path).write_bytes(b"x" * 5)
    download(ScriptedSource(b"y" * 9, version=""), "k", path, uri="u")
    assert path.read_bytes() == b"y" * 9


def test_an_object_replaced_while_being_read_is_never_joined():
    source = ScriptedSource(b"a" * 100, [30])
    chunks = read_object(source, "k", uri="s3://b/k")
    got = bytearray(next(chunks))
    source.version, source.data = "v2", b"b" * 100
    with pytest.raises(StorageError) as caught:
        got.extend(byte for chunk in chunks for byte in chunk)
    assert caught.value.reason == "ObjectChanging"
    assert set(got) == set(b"a")


def test_a_read_without_progress_is_given_up_with_the_place_it_reached():
    source = ScriptedSource(b"a" * 100, [30, 0, 0, 0, 0, 0, 0, 0])
    with pytest.raises(StorageError) as caught:
        list(read_object(source, "k", uri="s3://b/k"))
    assert caught.value.reason == "Unreachable"
    assert "s3://b/k broke off at byte 30 of 100" in caught.value.message
    assert len(source.offsets) == stream.MAX_ATTEMPTS


def test_a_body_that_ends_early_without_an_error_is_noticed():
    class Short(ScriptedSource):
        def _chunks(self, rest, limit):
            yield rest[:10]

    assert b"".join(read_object(Short(b"a" * 35), "k", uri="u")) == b"a" * 35


def test_a_server_that_says_no_size_is_read_to_its_end():
    assert list(read_object(ScriptedSource(b"abc", says_size=False), "k", uri="u")) == [b"abc"]


def test_what_cannot_fit_is_refused_before_it_is_downloaded(tmp_path, monkeypatch):
    free = type("Usage", (), {"free": 10})
    monkeypatch.setattr(stream.shutil, "disk_usage", lambda path: free)
    with pytest.raises(StorageError) as caught:
        download(ScriptedSource(b"a" * 100), "k", tmp_path / "file", uri="u")
    assert caught.value.reason == "DiskFull"
    assert "100 bytes needed, 10 bytes free" in caught.value.message
    assert not (tmp_path / "file").exists()
