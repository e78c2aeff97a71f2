"""What waits for storage is told in words, and held to a budget that the pod's disk allows."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.storage import ObjectStore
from finetune_trainer.storage.local import FileStore
from finetune_trainer.storage.store import OnBytes
from finetune_trainer.train.parent.outbox import Outbox, decide_budget, say_bytes
from kit.processes.eventually import eventually

GIB = 2**30


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 40 * GIB),
        ({"FINETUNE_SCRATCH_BYTES": str(100 * GIB)}, 40 * GIB),
        ({"FINETUNE_SCRATCH_BYTES": str(20 * GIB)}, 10 * GIB),
        ({"FINETUNE_CHECKPOINT_BUFFER_BYTES": "123", "FINETUNE_SCRATCH_BYTES": "4"}, 123),
    ],
)
def test_budget_is_half_of_what_the_pod_may_write(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=80 * GIB))
    assert decide_budget(environment, Path()) == expected


def test_budget_that_is_no_number_is_named() -> None:
    with pytest.raises(UserError, match="FINETUNE_CHECKPOINT_BUFFER_BYTES is '10Gi'"):
        decide_budget({"FINETUNE_CHECKPOINT_BUFFER_BYTES": "10Gi"}, Path())


def test_slow_link_is_told_with_its_rate_and_a_stalled_one_as_such(tmp_path: Path) -> None:
    now, told = [0.0], list[str]()
    outbox = Outbox(FileStore(tmp_path), budget_bytes=GIB, tell=told.append, clock=lambda: now[0])
    has_begun, goes_on, ends = threading.Event(), threading.Event(), threading.Event()

    def send(_: ObjectStore, on_bytes: OnBytes) -> None:
        on_bytes(10 * 2**20)
        has_begun.set()
        assert goes_on.wait(30)
        now[0] = 100.0
        on_bytes(90 * 2**20)
        has_begun.set()
        assert ends.wait(30)

    outbox.submit("checkpoint of step 5", 200 * 2**20, send)
    outbox.submit("checkpoint of step 9", 200 * 2**20, lambda *_: None)
    assert has_begun.wait(30)
    outbox.report()
    assert told == []
    now[0] = 70.0
    outbox.report()
    outbox.report()
    assert told == [
        "storing the checkpoint of step 5 has taken 70 s so far: 10.0 MiB of 200.0 MiB stored, "
        "nothing in the last 70 s; behind it wait 1 more, together checkpoint of step 5, "
        "checkpoint of step 9 (400.0 MiB of a local budget of 1.0 GiB)"
    ]
    has_begun.clear()
    goes_on.set()
    assert has_begun.wait(30)
    now[0] = 140.0
    outbox.report()
    assert "has taken 2 min so far: 100.0 MiB of 200.0 MiB stored, 731 KiB/s; behind it" in told[1]
    ends.set()
    eventually(outbox.is_idle)
    assert outbox.describe() == ""


def test_what_follows_a_failure_fails_with_it(tmp_path: Path) -> None:
    outbox = Outbox(FileStore(tmp_path), budget_bytes=0, tell=lambda _: None)
    ran: list[int] = []

    def fail(*_: object) -> None:
        raise UserError("Odd", "not this one")

    first = outbox.submit("first", 1, fail)
    second = outbox.submit("second", 1, lambda *_: ran.append(2))
    for parcel in (first, second):
        with pytest.raises(UserError, match="not this one"):
            parcel.result(30)
    assert ran == []


def test_lost_parcels_are_those_that_waited_when_storage_failed(tmp_path: Path) -> None:
    outbox = Outbox(FileStore(tmp_path), budget_bytes=0, tell=lambda _: None)
    goes_on = threading.Event()

    def fail(*_: object) -> None:
        raise UserError("Odd", "not this one")

    outbox.submit("best weights of step 2", 1, lambda *_: goes_on.wait(30))
    outbox.submit("checkpoint of step 3", 1, fail)
    last = outbox.submit("checkpoint of step 6", 1, fail)
    assert outbox.describe().startswith("best weights of step 2, checkpoint of step 3, ")
    goes_on.set()
    with pytest.raises(UserError):
        last.result(30)
    assert outbox.describe() == (
        "checkpoint of step 3, checkpoint of step 6 (0 KiB of a local budget of 0 KiB)"
    )


@pytest.mark.parametrize(
    ("num_bytes", "words"), [(0, "0 KiB"), (3000, "3 KiB"), (5 * 2**20, "5.0 MiB")]
)
def test_sizes_are_written_for_people(num_bytes: int, words: str) -> None:
    assert say_bytes(num_bytes) == words
