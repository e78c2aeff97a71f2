"""What TensorBoard finds beside a run after its stages, whatever happened on the way.

Read as the format is documented; ``make tracking`` reads it with TensorBoard's own reader.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import StorageError
from finetune_trainer.storage import ObjectStore, open_store
from finetune_trainer.tracking.content import Facts, Point
from finetune_trainer.tracking.tensorboard import events
from finetune_trainer.tracking.tensorboard.tracker import EventFiles
from kit.processes.eventually import eventually
from kit.reports.event_files import read_events
from kit.reports.tracked import PATIENCE, close, job_with, track, write_curve


class Bench:
    """A job that names TensorBoard, its storage, and what is told of it."""

    def __init__(self, folder: Path) -> None:
        self.job: ResolvedJob = job_with("u-1", {"tensorboard": {}})
        self.root = folder / "models"
        self.folder = self.root / self.job.run_prefix / "tensorboard"
        self.curve = folder / "metrics.jsonl"
        self.told: list[str] = []

    def open(self) -> ObjectStore:
        return open_store(str(self.root))

    def tracker(self) -> EventFiles:
        return EventFiles(self.job, self.open, "s3://models/run/tensorboard")

    def track(self, *, trains: bool = True) -> Any:
        curve = self.curve if trains else None
        return track(self.job, self.told, curve, tracker=self.tracker())

    def steps(self, tag: str = "loss") -> list[int]:
        return [step for step, _ in read_events(self.folder)["scalars"].get(tag, [])]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_curve_is_written_once_however_often_a_run_begins_again(bench: Bench) -> None:
    write_curve(bench.curve, *range(1, 6))
    first = bench.track()
    eventually(lambda: bench.folder.exists() and bench.steps() == [1, 2, 3, 4, 5], timeout=PATIENCE)
    write_curve(bench.curve, *range(1, 11))
    assert close(first, "KILLED").uris == ["s3://models/run/tensorboard"]
    # The next attempt resumes at step 6 and logs the steps after it again.
    write_curve(bench.curve, *range(1, 7))
    second = bench.track()
    write_curve(bench.curve, *range(1, 16))
    assert close(second).problem == ""
    found = read_events(bench.folder)
    assert found["scalars"]["loss"] == [[s, pytest.approx(1 / s)] for s in range(1, 16)]
    assert found["scalars"]["x"] == [[s, 1.0] for s in range(1, 16)]
    assert not found["is_over"]
    assert len(list(bench.folder.glob("*tfevents*"))) >= 2
    assert bench.told == []


def test_settings_are_numbers_where_they_can_be_and_scores_stand_beside_the_curve(
    bench: Bench,
) -> None:
    recipe = bench.curve.with_name("recipe.json")
    tracking = bench.track()
    recipe.write_text(json.dumps({"micro_batch_size": 8, "learning_rate": 2e-4, "strategy": "DDP"}))
    write_curve(bench.curve, 1, 2)
    close(tracking)
    tracking = bench.track(trains=False)
    scores = (
        Point(key="test.exactMatch.base", value=0.25, step=0),
        Point(key="test.exactMatch.tuned", value=1e300, step=0),
    )
    tags = {"finetune.goal_met": "true", "finetune.report.uri": "s3://a|b"}
    tracking.add(Facts(tags=tags, points=scores))
    close(tracking, "FINISHED")
    found = read_events(bench.folder)
    assert found["settings"]["recipe.learning_rate"] == 2e-4
    assert found["settings"]["recipe.micro_batch_size"] == 8
    assert found["settings"]["recipe.strategy"] == "DDP"
    assert found["settings"]["hyperparameters.learningRate"] == "auto"
    assert found["scalars"]["test/exactMatch/base"] == [[0, 0.25]]
    ((_, largest),) = found["scalars"]["test/exactMatch/tuned"]
    assert 3.4e38 < largest < 3.5e38
    assert found["is_over"]
    *_, facts = found["texts"]["finetune/facts"]
    assert "| finetune.goal_met | `true` |" in facts
    assert r"| finetune.report.uri | `s3://a\|b` |" in facts
    assert "| finetune.name | `headlines` |" in facts
    assert "| recipe.strategy | `DDP` |" in facts  # the evaluation does not know it
    assert "| status | `FINISHED` |" in facts


def test_nothing_new_writes_nothing(bench: Bench) -> None:
    write_curve(bench.curve, 1, 2)
    close(bench.track(), "FINISHED")
    before = sorted(path.name for path in bench.folder.iterdir())
    close(bench.track(), "FINISHED")
    assert sorted(path.name for path in bench.folder.iterdir()) == before


def test_a_file_that_was_not_counted_is_written_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_curve(bench.curve, 1, 2, 3)
    tracker = bench.tracker()
    tracker.open()
    tracker.send_points([Point(key="loss", value=1.0, step=1)])
    told = (bench.folder / "told.json").read_bytes()
    tracker.send_points([Point(key="loss", value=0.5, step=2)])
    (bench.folder / "told.json").write_bytes(told)  # as if killed before it was written
    close(bench.track())
    assert bench.steps() == [1, 2, 3]


def test_storage_that_is_away_in_the_middle_gets_the_rest_when_it_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_curve(bench.curve, 1, 2)
    tracking = bench.track()
    eventually(lambda: bench.folder.exists() and bench.steps() == [1, 2], timeout=PATIENCE)

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("Unreachable", "http://s3:8333 cannot be reached")

    with monkeypatch.context() as away:
        away.setattr("finetune_trainer.storage.local.FileStore.write_bytes", refuse)
        write_curve(bench.curve, 1, 2, 3, 4)
        eventually(lambda: bool(bench.told), timeout=PATIENCE)
    write_curve(bench.curve, 1, 2, 3, 4, 5)
    assert close(tracking, "FINISHED").problem == ""
    assert bench.steps() == [1, 2, 3, 4, 5]
    (message,) = bench.told
    assert "s3://models/run/tensorboard: http://s3:8333 cannot be reached" in message


def test_notes_that_cannot_be_read_are_named_with_what_to_do(bench: Bench) -> None:
    bench.folder.mkdir(parents=True)
    (bench.folder / "told.json").write_text("{")
    result = close(bench.track(), "FINISHED")
    assert "told.json cannot be read; delete the folder" in result.problem
    assert result.uris == []


def test_files_come_less_often_the_longer_a_run_lasts(bench: Bench) -> None:
    tracker = bench.tracker()
    pauses = [tracker.pause(seconds) for seconds in (0, 3600, 5 * 86400)]
    assert pauses == [10, 180, 600]


def test_checksums_are_those_of_the_format() -> None:
    # RFC 3720, B.4: the CRC-32C of 32 zero bytes is 8a9136aa; masked as TFRecord does.
    crc = 0x8A9136AA
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert events._checksum(bytes(32)) == masked.to_bytes(4, "little")
