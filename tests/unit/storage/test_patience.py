"""What a store refuses for now is asked again; what cannot pass is raised at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from finetune_api.protocol.trainer import Environment
from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.storage import ObjectNotFound, patience
from finetune_trainer.storage.errors import CredentialsRefused
from finetune_trainer.storage.local import FileStore
from finetune_trainer.storage.patience import (
    Patience,
    PatientStore,
    backoff_seconds,
    decide_patience,
    say_seconds,
)

AWAY = StorageError("Unreachable", "no answer from s3.")
REFUSED = CredentialsRefused("AccessDenied", "the server does not know the key.")
DENIED = UserError("AccessDenied", "the key may not do this.")


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    """A patience without real time, and what it told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.patience = Patience(self.told.append, clock=self.clock, **options)

        def wait(seconds: float) -> None:
            self.clock.now += seconds

        monkeypatch.setattr(self.patience, "_wait", wait)
        monkeypatch.setattr(patience, "backoff_seconds", lambda failures: 10.0)

    def answer(self, kind: Any, *answers: Any) -> Any:
        """Ask a store that gives these answers, one after the other, the last for ever."""
        left = list(answers)

        def ask() -> Any:
            given = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(given, Exception):
                raise given
            return given

        return self.patience.run(kind, ask)


@pytest.fixture
def make_world(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    return lambda **options: World(monkeypatch, **options)


@pytest.mark.parametrize(
    "error",
    [
        AWAY,
        StorageError("BucketFull", "quota"),
        StorageError("DamagedInTransit", "BadDigest"),
        StorageError("ClockSkew", "too skewed"),
    ],
)
def test_what_may_pass_is_asked_again(make_world: Callable[..., World], error: Exception) -> None:
    world = make_world()
    assert world.answer("read", error, error, "found") == "found"
    assert world.told[0].startswith("storage does not serve this run")
    assert error.args[1] in world.told[0]
    assert world.told[1] == "storage answers again after 20 s"


@pytest.mark.parametrize(
    "error",
    [
        REFUSED,
        DENIED,
        UserError("BucketNotFound", "no bucket"),
        StorageError("DiskFull", "no room"),
        StorageError("StoreConflict", "changed"),
        ObjectNotFound("not there"),
    ],
)
def test_what_cannot_pass_is_raised_as_it_is(
    make_world: Callable[..., World], error: TrainerError
) -> None:
    world = make_world()
    with pytest.raises(type(error)) as raised:
        world.answer("read", error, "found")
    assert raised.value is error
    assert world.told == []


@pytest.mark.parametrize(
    ("before", "kind", "error", "passes"),
    [
        ("read", "read", DENIED, True),
        ("read", "write", DENIED, False),  # a key that may only read: nobody is going to change it
        ("read", "write", REFUSED, True),  # a key that is not known any more: it was rotated
        ("read", "read", UserError("BucketNotFound", "no bucket"), True),
        ("write", "delete", DENIED, False),
    ],
)
def test_refusal_passes_only_after_the_same_was_granted(
    make_world: Callable[..., World], before: Any, kind: Any, error: Exception, passes: bool
) -> None:
    world = make_world()
    world.answer(before, "granted")
    if passes:
        assert world.answer(kind, error, "granted") == "granted"
    else:
        with pytest.raises(UserError):
            world.answer(kind, error, "granted")


def test_rights_that_an_earlier_stage_used_count_as_granted(
    make_world: Callable[..., World],
) -> None:
    assert make_world(known=("write",)).answer("write", DENIED, "granted") == "granted"


@pytest.mark.parametrize(("answered", "seconds"), [(True, 900), (False, 120)])
def test_store_that_stays_away_is_given_up_as_a_storage_error(
    make_world: Callable[..., World], answered: bool, seconds: int
) -> None:
    world = make_world(known=("read",) if answered else ())
    began = world.clock.now
    with pytest.raises(StorageError) as raised:
        world.answer("read", AWAY)
    assert world.clock.now - began == seconds
    assert raised.value.reason == "Unreachable"
    assert raised.value.message == (f"no answer from s3. It stayed so for {say_seconds(seconds)}.")


def test_lost_key_is_given_up_as_a_storage_error_and_not_the_users(
    make_world: Callable[..., World],
) -> None:
    world = make_world(known=("write",))
    with pytest.raises(StorageError) as raised:
        world.answer("write", REFUSED)
    assert raised.value.exit_code == 73
    assert raised.value.reason == "AccessDenied"


def test_call_that_moves_bytes_is_not_given_up(make_world: Callable[..., World]) -> None:
    world = make_world(seconds=30)
    world.patience.note_answer("write")
    moved = 0

    def ask() -> str:
        nonlocal moved
        moved += 1
        if moved < 50:
            raise AWAY
        return "stored"

    assert world.patience.run("write", ask, moved=lambda: moved) == "stored"


def test_giving_up_ends_every_wait(make_world: Callable[..., World]) -> None:
    world = make_world(seconds=None)
    world.patience.give_up()
    with pytest.raises(StorageError, match="no answer"):
        world.answer("read", AWAY, "found")


def test_long_outage_is_told_now_and_then(make_world: Callable[..., World]) -> None:
    world = make_world(known=("read",))
    assert world.answer("read", *[AWAY] * 80, "found") == "found"
    assert len(world.told) == 4  # at 0, 300 and 600 s, and when it was over
    assert "for 5 min" in world.told[1]


def test_storm_of_failures_and_answers_is_not_a_storm_of_messages(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    for _ in range(12):
        world.answer("read", AWAY, "found")
    assert len(world.told) == 4  # in 120 s: twice away, twice back


def test_waits_grow_and_differ() -> None:
    waits = [backoff_seconds(5) for _ in range(50)]
    assert len(set(waits)) > 40
    assert all(8 <= wait <= 16 for wait in waits)
    assert all(backoff_seconds(n) <= 30 for n in range(1, 40))


def test_patience_is_a_setting() -> None:
    assert decide_patience({}) == 900
    assert decide_patience({Environment.STORAGE_PATIENCE_SECONDS: "60"}) == 60
    with pytest.raises(UserError, match="FINETUNE_STORAGE_PATIENCE_SECONDS is 'long'"):
        decide_patience({"FINETUNE_STORAGE_PATIENCE_SECONDS": "long"})


class Breaking(FileStore):
    """Every reading and every listing breaks off after two items, ``num_breaks`` times."""

    num_breaks = 0

    def _break(self, items: Iterator[Any]) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 2 and self.num_breaks:
                self.num_breaks -= 1
                raise AWAY
            yield item

    def read_chunks(self, key: str) -> Iterator[bytes]:
        data = (self.root / key).read_bytes()
        return self._break(data[at : at + 3] for at in range(0, len(data), 3))

    def list(self, prefix: str = "") -> Iterator[Any]:
        return self._break(super().list(prefix))


@pytest.fixture
def breaking(tmp_path: Any) -> Breaking:
    store = Breaking(tmp_path)
    store.write_bytes("f", bytes(range(20)))
    for name in "abcde":
        store.write_bytes(f"many/{name}", b"")
    return store


def test_reading_goes_on_where_it_broke_off(
    make_world: Callable[..., World], breaking: Breaking
) -> None:
    breaking.num_breaks = 2
    store = PatientStore(breaking, make_world().patience)
    assert b"".join(store.read_chunks("f")) == bytes(range(20))
    assert breaking.num_breaks == 0


def test_reading_never_joins_two_objects(
    make_world: Callable[..., World], breaking: Breaking
) -> None:
    breaking.num_breaks = 1
    chunks = PatientStore(breaking, make_world().patience).read_chunks("f")
    assert next(chunks) == bytes(range(3))
    breaking.write_bytes("f", bytes(20))
    with pytest.raises(StorageError) as raised:
        list(chunks)
    assert raised.value.reason == "ObjectChanging"


def test_listing_names_everything_once(
    make_world: Callable[..., World], breaking: Breaking
) -> None:
    breaking.num_breaks = 1
    store = PatientStore(breaking, make_world().patience)
    assert [info.key for info in store.list("many/")] == [f"many/{name}" for name in "abcde"]
