"""Rows on their way to object storage, where some of it is away or has moved."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from finetune_trainer.errors import StorageError
from finetune_trainer.serve.recorder.keeping import Keeper
from finetune_trainer.serve.recorder.metrics import Metrics
from finetune_trainer.serve.recorder.places import read_places
from finetune_trainer.serve.recorder.spool import Spool
from finetune_trainer.storage.local import FileStore
from finetune_trainer.traffic.reading import list_segments
from finetune_trainer.traffic.rows import Exchange
from kit.servers.running_front import endpoint, served
from kit.servers.running_recorder import capture

TIME = datetime(2026, 11, 30, 4, tzinfo=UTC)


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(Spool(tmp_path / "spool"), Metrics(CollectorRegistry()), None)


def follow(keeper: Keeper, **folders: Path) -> None:
    """Have endpoints capture into these folders."""
    made = {
        name: endpoint(served(1, 1), name=name, capture=capture(folder))
        for name, folder in folders.items()
    }
    keeper.follow(read_places(made))


def row(number: int, name: str) -> Exchange:
    return Exchange(
        id=f"20261130040000-{number:022}-0123456789",
        time=TIME,
        endpoint=name,
        version=1,
        sha256="",
        request={},
        answer={},
        latency_seconds=0.1,
    )


async def test_storage_that_is_away_is_tried_once_and_others_do_not_wait_for_it(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    write = FileStore.write_bytes

    def refuse(self: FileStore, key: str, data: bytes, *, if_absent: bool = False) -> None:
        tried.append(self.uri)
        if "/gone/" in self.uri:
            raise StorageError("Unreachable", "away")
        write(self, key, data, if_absent=if_absent)

    monkeypatch.setattr(FileStore, "write_bytes", refuse)
    follow(keeper, lost=tmp_path / "gone", kept=tmp_path / "there")
    for number, name in enumerate(("lost", "lost", "lost", "kept")):
        keeper.spool.add([row(number, name)], 0.0)
        keeper.spool.close_older(1.0)
    assert not await keeper.store_all()
    assert len(tried) == 2
    assert len(list_segments(keeper.store_of(keeper.places["kept"]))) == 1
    assert {file.endpoint for file in keeper.spool.files} == {"lost"}


def test_an_endpoint_whose_storage_stays_away_leaves_others_their_room(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(keeper, lost=tmp_path / "gone", kept=tmp_path / "there")
    monkeypatch.setattr("finetune_trainer.serve.recorder.spool.MAX_BYTES", 3000)
    number = 0
    while keeper.has_room("lost"):
        keeper.spool.add([row(number := number + 1, "lost")], 0.0)
    assert keeper.has_room("kept")
    assert not keeper.spool.is_full


async def test_counts_are_forgotten_when_the_place_changes(keeper: Keeper, tmp_path: Path) -> None:
    follow(keeper, headline=tmp_path / "before")
    await keeper.count(keeper.places["headline"])
    assert list(keeper.counts) == [keeper.places["headline"]]
    follow(keeper, headline=tmp_path / "after")
    assert not keeper.counts
