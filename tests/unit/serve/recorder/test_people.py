"""Keys that hash people outlive fronts, tokens and outages of the storage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.serve.recorder.people import Keyring, hash_person
from finetune_trainer.storage import ObjectStore
from finetune_trainer.storage.local import FileStore
from finetune_trainer.traffic.reading import open_traffic

TIME = datetime(2026, 11, 30, 4, tzinfo=UTC)
NAME, WHOSE = "headline", "team-a/headline"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_traffic(tmp_path.as_uri(), "team-a", NAME)


def keyring(folder: Path, token: str = "token") -> Keyring:
    made = Keyring(folder, lambda: token)
    made.load()
    return made


def keyring_of(folder: Path, store: ObjectStore, *, minutes: int = 0, token: str = "t") -> Keyring:
    """Return the keys of a new recorder that has looked into the storage."""
    made = keyring(folder, token)
    made.share(store, NAME)
    made.make(NAME, TIME + timedelta(minutes=minutes))
    made.share(store, NAME)
    return made


def test_a_new_recorder_with_a_new_token_makes_the_same_hashes(
    tmp_path: Path, store: ObjectStore
) -> None:
    first = keyring_of(tmp_path / "1", store, token="old")
    later = keyring_of(tmp_path / "2", store, token="new")
    assert later.hash(NAME, WHOSE, "bob") == first.hash(NAME, WHOSE, "bob")
    names = {first.hash(NAME, WHOSE, "bob"), first.hash(NAME, WHOSE, "eve")}
    assert len({*names, first.hash(NAME, "team-a/other", "bob")}) == 3
    assert hash_person("old", WHOSE, "bob") not in names  # the token makes none of them


def test_rows_that_were_hashed_with_the_token_are_looked_for_too(
    tmp_path: Path, store: ObjectStore
) -> None:
    made = keyring_of(tmp_path / "1", store, token="old")
    assert made.hashes(NAME, WHOSE, "bob")[-1] == hash_person("old", WHOSE, "bob")


def test_of_two_keys_that_were_made_at_once_all_use_one_and_look_for_both(
    tmp_path: Path, store: ObjectStore
) -> None:
    one, two = keyring(tmp_path / "1"), keyring(tmp_path / "2")
    for number, each in enumerate((one, two)):
        each.make(NAME, TIME + timedelta(seconds=number))
    before = {each.hash(NAME, WHOSE, "bob") for each in (one, two)}
    assert len(before) == 2
    for each in (one, two, one):
        each.share(store, NAME)
    assert one.hashes(NAME, WHOSE, "bob") == two.hashes(NAME, WHOSE, "bob")
    assert before < {*one.hashes(NAME, WHOSE, "bob")}


def test_a_key_that_was_made_in_an_outage_outlives_the_process_and_is_stored_before_rows(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = keyring(tmp_path / "1")
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> None:
            raise StorageError("Unreachable", "away")

        patch.setattr(FileStore, "list", refuse)
        with pytest.raises(StorageError):
            first.share(store, NAME)
        first.make(NAME, TIME)
    again = keyring(tmp_path / "1")
    assert again.hash(NAME, WHOSE, "bob") == first.hash(NAME, WHOSE, "bob")
    again.share(store, NAME)
    other = keyring_of(tmp_path / "2", store, minutes=1)
    assert other.hash(NAME, WHOSE, "bob") == first.hash(NAME, WHOSE, "bob")


def test_who_adds_a_key_has_new_hashes_and_finds_old_rows(
    tmp_path: Path, store: ObjectStore
) -> None:
    before = keyring_of(tmp_path / "1", store)
    store.write_bytes(f"people/{TIME + timedelta(days=1):%Y%m%d%H%M%S}-mine", b"another key")
    before_hash = before.hash(NAME, WHOSE, "bob")
    before.share(store, NAME)
    assert before.hash(NAME, WHOSE, "bob") == hash_person("another key", WHOSE, "bob")
    assert before_hash in before.hashes(NAME, WHOSE, "bob")
