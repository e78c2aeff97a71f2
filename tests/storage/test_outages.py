"""A real S3 server behind a network that fails: outages, storms, slow links, keys, damage."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.storage import (
    ChecksumMismatch,
    ObjectStore,
    fetch_folder,
    patience,
    publish_folder,
    stream,
)
from finetune_trainer.storage.patience import Patience, PatientStore
from finetune_trainer.storage.s3 import store as s3_module
from finetune_trainer.storage.s3 import upload as s3_upload
from finetune_trainer.train.checkpoint import commit_checkpoint, fetch_newest, upload_checkpoint
from kit.processes.eventually import eventually, patient
from kit.servers.faulty_s3 import FaultyS3, faulty_s3
from kit.servers.seaweedfs import SeaweedS3

MIB = 2**20


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "MAX_ATTEMPTS", 1)
    monkeypatch.setattr(patience, "backoff_seconds", lambda failures: 0.1)
    monkeypatch.setattr(stream, "_backoff_seconds", lambda failures: 0.0)


@pytest.fixture
def link(s3: SeaweedS3) -> Iterator[FaultyS3]:
    with faulty_s3(s3.endpoint) as link:
        yield link


class Run:
    """A store behind the link, as a stage opens it, and what it told."""

    def __init__(self, s3: SeaweedS3, link: FaultyS3, **options: Any) -> None:
        self.told: list[str] = []
        self.patience = Patience(self.told.append, **options)
        self.direct = s3.open(s3.new_uri(), endpoint=link.endpoint)
        self.store: ObjectStore = PatientStore(self.direct, self.patience)


def folder_of(path: Path, **files: bytes) -> Path:
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def during_outage(link: FaultyS3, run: Run, act: Callable[[], Any]) -> Any:
    """Begin while the link is shut; open it once that has been noticed."""
    link.shut()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(act()))
    thread.start()
    eventually(lambda: run.patience.away_seconds > 0)
    link.open()
    thread.join(60)
    return results[0]


def test_everything_outlasts_an_outage(s3: SeaweedS3, link: FaultyS3, tmp_path: Path) -> None:
    run = Run(s3, link)
    folder = folder_of(tmp_path / "out", small=b"1", large=os.urandom(20 * MIB))
    during_outage(link, run, lambda: publish_folder(run.store, "a", folder, created_by="t"))
    during_outage(link, run, lambda: fetch_folder(run.store, "a", tmp_path / "in"))
    assert (tmp_path / "in" / "large").read_bytes() == (folder / "large").read_bytes()
    for act, expected in (
        (lambda: run.store.exists("a/small"), True),
        (lambda: [info.key for info in run.store.list("a/")][-1], "a/small"),
        (lambda: run.store.read_bytes("a/small"), b"1"),
        (lambda: run.store.delete("a/small"), None),
    ):
        assert during_outage(link, run, act) == expected
    assert run.told[0].startswith("storage does not serve")
    assert run.told[1].startswith("storage answers again after")


def test_large_upload_sends_only_what_an_outage_left_to_send(
    s3: SeaweedS3, link: FaultyS3, tmp_path: Path
) -> None:
    run = Run(s3, link)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(60 * MIB))
    parts: list[str] = []

    def shut_once(method: str, target: str) -> None:
        if "partNumber" not in target:
            return
        parts.append(target)
        if len(parts) == 5:
            link.shut()
            threading.Timer(0.5, link.open).start()

    link.on_request = shut_once
    sent: list[int] = []
    run.store.upload_file(path, "large", on_bytes=sent.append)
    assert run.store.read_bytes("large") == path.read_bytes()
    assert sum(sent) == 60 * MIB
    assert len(parts) < 8 + 5  # eight parts, and those that were cut


def test_storm_of_503_is_outlasted(s3: SeaweedS3, link: FaultyS3, tmp_path: Path) -> None:
    run = Run(s3, link)
    link.share_of_503 = 0.6
    folder = folder_of(tmp_path / "out", **{f"f{n}": os.urandom(100) for n in range(20)})
    manifest = publish_folder(run.store, "a", folder, created_by="t")
    assert fetch_folder(run.store, "a", tmp_path / "in") == manifest
    assert link.num_refused > 20
    assert len(run.told) <= 2
    assert "SlowDown" in run.told[0]


def test_store_that_stays_away_is_a_storage_error(s3: SeaweedS3, link: FaultyS3) -> None:
    run = Run(s3, link, seconds=0.5)
    run.store.write_bytes("a", b"1")
    link.shut()
    with pytest.raises(StorageError) as raised:
        run.store.read_bytes("a")
    assert raised.value.reason == "Unreachable"
    assert link.endpoint in raised.value.message
    assert "It stayed so for" in raised.value.message


def test_slow_link_is_no_outage(
    s3: SeaweedS3, link: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Parts at once take 10 seconds and run into the limit of 8; one at a time takes 3.5.
    monkeypatch.setattr(s3_module, "READ_TIMEOUT_SECONDS", 8)
    for module in (s3_module, s3_upload):
        monkeypatch.setattr(module, "PART_BYTES", 5 * MIB)
    run = Run(s3, link, seconds=patient(40))
    path = tmp_path / "large"
    path.write_bytes(os.urandom(15 * MIB))
    gate = threading.Lock()

    class Shared(float):
        """A rate that all connections share."""

        def __rtruediv__(self, num_bytes: int) -> float:
            with gate:
                threading.Event().wait(num_bytes / 1.5e6)
            return 0.0

    link.bytes_per_second = Shared(1)
    run.store.upload_file(path, "large")
    link.bytes_per_second = None
    assert run.store.read_bytes("large") == path.read_bytes()


def test_keys_that_are_rotated_are_read_again(s3: SeaweedS3, tmp_path: Path) -> None:
    told: list[str] = []
    store = PatientStore(s3.open(s3.new_uri()), Patience(told.append))
    store.write_bytes("a", b"1")
    s3.rotate()
    try:
        s3.renew_secret()
        assert store.read_bytes("a") == b"1"  # at once, with nothing to tell
        assert told == []
        s3.rotate()
        timer = threading.Timer(0.5, s3.renew_secret)
        timer.start()
        store.write_bytes("b", b"2")
        assert "Secret 's3-read-write'" in told[0]
        assert told[1].startswith("storage answers again")
        timer.join()
        assert [info.key for info in store.list()] == ["a", "b"]
    finally:
        s3.renew_secret()


def test_key_that_never_worked_is_the_users_error_at_once(s3: SeaweedS3, tmp_path: Path) -> None:
    direct = s3.open(s3.new_uri())
    s3.rotate()
    try:
        with pytest.raises(UserError, match="s3-read-write"):
            PatientStore(direct, Patience(lambda _: None)).read_bytes("a")
    finally:
        s3.renew_secret()


def test_key_that_may_only_read_is_the_users_error_at_once(s3: SeaweedS3) -> None:
    uri = s3.new_uri()
    s3.open(uri).write_bytes("a", b"1")
    store = PatientStore(s3.open(uri, "read-only"), Patience(lambda _: None))
    assert store.read_bytes("a") == b"1"
    with pytest.raises(UserError, match="AccessDenied"):
        store.write_bytes("b", b"2")


@pytest.mark.parametrize("name", ["weights", "manifest.json"])
def test_damaged_read_is_read_again(
    s3: SeaweedS3, link: FaultyS3, tmp_path: Path, name: str
) -> None:
    run = Run(s3, link)
    folder = folder_of(tmp_path / "out", weights=os.urandom(9 * MIB), config=b"{}")
    publish_folder(run.store, "a", folder, created_by="t")
    link.damage_reads(f"/{name}", times=2)
    fetch_folder(run.store, "a", tmp_path / "in")
    assert link.num_damaged == 2
    assert (tmp_path / "in" / "weights").read_bytes() == (folder / "weights").read_bytes()


def test_object_that_is_damaged_each_time_is_named(
    s3: SeaweedS3, link: FaultyS3, tmp_path: Path
) -> None:
    run = Run(s3, link)
    folder = folder_of(tmp_path / "out", weights=os.urandom(9 * MIB), config=b"{}")
    publish_folder(run.store, "a", folder, created_by="t")
    link.damage_reads("/weights", times=99)
    with pytest.raises(ChecksumMismatch, match=f"{run.direct.uri}/a/weights is not what"):
        fetch_folder(run.store, "a", tmp_path / "in")
    assert link.num_damaged >= 3
    assert not (tmp_path / "in" / "weights").exists()


def test_checkpoint_that_arrives_damaged_gives_way_to_the_one_before(
    s3: SeaweedS3, link: FaultyS3, tmp_path: Path
) -> None:
    run = Run(s3, link)
    for step in (3, 6):
        folder = folder_of(tmp_path / f"{step}", **{"state.json": b'"%d"' % step})
        entries = upload_checkpoint(run.store, f"c/step-{step}", folder)
        commit_checkpoint(run.store, f"c/step-{step}", entries, step=step, inputs={})
    link.damage_reads("step-6/state.json", times=99)
    damaged: list[str] = []
    found = fetch_newest(
        run.store, "c", tmp_path / "in", on_damaged=lambda step, e: damaged.append(e.message)
    )
    assert found is not None
    assert found.step == 3
    assert "c/step-6/state.json" in damaged[0]
