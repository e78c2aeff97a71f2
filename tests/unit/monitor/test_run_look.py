"""A whole look, from a version and its traffic in storage to the words for the operator."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from finetune_api.protocol.monitoring import TASK, LookReport, LookTask
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.monitor.__main__ import main
from finetune_trainer.monitor.running import EVIDENCE_KEY, run_look
from finetune_trainer.serve.recorder.scrubbing import scrub_text
from finetune_trainer.storage import open_store, publish_folder
from finetune_trainer.traffic.places import segment_key
from finetune_trainer.traffic.reading import open_traffic
from finetune_trainer.traffic.rows import Exchange, write_exchange

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
THINGS = ["coat", "hat", "glove", "scarf"]


def question(rng: random.Random, number: int) -> str:
    thing = rng.choice(THINGS)
    return f"a {thing} of number {rng.randrange(50)} to anna.lindgren.the.third{number}@example.com"


class World:
    """A version in an output, and its traffic below the same folder."""

    def __init__(self, folder: Path, *, num_rows: int = 400, num_answers: int = 200) -> None:
        self.output, self.scratch = folder / "output", folder / "scratch"
        self.scratch.mkdir()
        store, rng = open_store(self.output.as_uri()), random.Random(1)
        files = {
            "datasets/d": ("train.jsonl", [
                {"prompt": question(rng, number), "completion": "Fine.",
                 "metadata": {"group": f"g{number}"}} for number in range(num_rows)]),
            "runs/shop/copy/u/evaluation": ("samples.jsonl", [
                {"prompt": "a", "tuned": rng.choice(["good", "bad"]), "group": f"e{number}"}
                for number in range(num_answers)]),
            "versions/shop/copy/3": ("weights", [{}]),
        }  # fmt: skip
        inputs: dict[str, str] = {"run": "runs/shop/copy/u", "dataset": "d"}
        for place, (name, rows) in files.items():
            source = folder / "sources" / place
            source.mkdir(parents=True)
            (source / name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
            made = publish_folder(store, place, source, created_by="test", inputs=inputs)
            inputs[place.rpartition("/")[2]] = made.digest
        self.manifest = self.output / "versions/shop/copy/3/manifest.json"
        self.traffic = open_traffic(self.output.as_uri(), "shop", "copy")

    def capture(self, hour: int, *, answer: str = "") -> None:
        """Store 40 answers of 40 users in an hour."""
        rng, begin = random.Random(hour), START + hour * HOUR
        rows = [
            Exchange(
                id=f"{hour}-{number}",
                time=begin + timedelta(seconds=number),
                endpoint="copy",
                version=3,
                sha256="",
                request={"messages": [{"role": "user", "content":
                    scrub_text(question(rng, number))}]},
                answer={"choices": [
                    {"message": {"content": answer or rng.choice(["good", "bad"])}}]},
                latency_seconds=0.1,
                user=f"u{number}",
            )
            for number in range(40)
        ]  # fmt: skip
        key = segment_key(rows[0].time, rows[-1].time, num_rows=40, writer="w", number=1)
        self.traffic.write_bytes(key, b"".join(map(write_exchange, rows)))

    def task(self, hours: int, **monitor: object) -> LookTask:
        active = {
            "version": 3, "adapter": "shop.copy-v3", "manifestUri": self.manifest.as_uri(),
            "sha256": hashlib.sha256(self.manifest.read_bytes()).hexdigest(), "server": "s",
            "baseModel": "m", "storage": {"uri": self.output.as_uri()},
            "since": START.isoformat(),
        }  # fmt: skip
        return LookTask.model_validate(
            {"namespace": "shop", "endpoint": "copy", "job": "copy", "active": active,
             "traffic": {"uri": self.output.as_uri()}, "monitor": {"minAnswers": 30, **monitor},
             "until": (START + hours * HOUR).isoformat()}
        )  # fmt: skip

    def look(self, hours: int, **monitor: object) -> LookReport:
        return run_look(self.task(hours, **monitor), folder=self.scratch)


def signal(report: LookReport, name: str) -> str | None:
    (found,) = (each.since for each in report.signals if each.name == name)
    return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_look_tells_what_has_changed_and_since_when(world: World) -> None:
    for hour in range(8):
        world.capture(hour, answer="" if hour < 3 else "bad")
    reports = [world.look(hour + 1) for hour in range(8)]
    assert [each.num_looks for each in reports] == list(range(1, 9))
    assert not any(each.since for each in reports[2].signals)
    assert signal(reports[-1], "Labels") == "2026-01-01T03:00:00.000Z"
    assert signal(reports[-1], "PromptLength") is None
    assert list(world.scratch.iterdir()) == []


def test_an_alarm_holds_for_a_month(world: World) -> None:
    for hour in range(8):
        world.capture(hour, answer="bad")
        report = world.look(hour + 1)
    assert signal(report, "Labels")
    assert signal(world.look(28 * 24), "Labels")
    assert signal(world.look(32 * 24), "Labels") is None


def test_personal_data_of_training_counts_as_it_does_in_the_traffic(world: World) -> None:
    """Addresses of training rows stay out of the reference, as they do of captured answers."""
    for hour in range(16):
        world.capture(hour)
        report = world.look(hour + 1, signals=["PromptLength"])
    assert report.num_looks == 16
    assert not any(each.since for each in report.signals)


def test_an_endpoint_without_answers_has_no_looks(world: World) -> None:
    report = world.look(5)
    assert (report.num_looks, report.num_answers, report.num_waiting) == (0, 0, 0)
    assert {each.log_e for each in report.signals} == {"-inf"}


def test_a_look_that_comes_too_early_tells_what_is_known(world: World) -> None:
    world.capture(0)
    assert world.look(1).num_answers == 40
    assert world.look(1).num_answers == 40


def test_a_small_reference_leaves_errors_to_watch_or_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, num_rows=30, num_answers=30)
    world.capture(0)
    assert [each.name for each in world.look(1).signals] == ["Errors"]
    with pytest.raises(UserError) as error:
        world.look(1, signals=["Vocabulary"])
    assert error.value.reason == "ReferenceTooSmall"


def test_another_manifest_than_that_of_the_version_is_refused(world: World) -> None:
    task = world.task(1)
    active = task.active.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(StorageError) as error:
        run_look(task.model_copy(update={"active": active}), folder=world.scratch)
    assert error.value.reason == "OtherVersion"


def test_a_clock_that_went_back_by_days_is_told(world: World) -> None:
    world.capture(0)
    world.look(24 * 300)
    with pytest.raises(StorageError) as error:
        world.look(24)
    assert error.value.reason == "ClockMovedBack"
    assert EVIDENCE_KEY in error.value.message


def test_the_process_leaves_its_report_or_why_there_is_none(world: World, tmp_path: Path) -> None:
    world.capture(0)
    log = tmp_path / "words"
    task = world.task(1)
    environment = {
        TASK: task.model_dump_json(by_alias=True, exclude_none=True),
        "FINETUNE_WORK_DIR": str(world.scratch),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_TERMINATION_LOG", str(log))
        assert main(environment) == 0
        assert LookReport.model_validate_json(log.read_text()).num_answers == 40
        world.manifest.unlink()
        assert main(environment) == 73
    told = LookReport.model_validate_json(log.read_text())
    assert (told.reason, told.num_looks) == ("ObjectNotFound", 0)
    assert str(world.manifest) in told.message
