"""A published version in a folder, and traffic of it that a look compares with it."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from finetune_api.protocol.monitoring import LookReport, LookTask
from finetune_trainer.monitor.running import run_look
from finetune_trainer.serve.recorder.scrubbing import scrub_text
from finetune_trainer.storage import open_store, publish_folder
from finetune_trainer.traffic.places import feedback_key, id_time, segment_key
from finetune_trainer.traffic.reading import open_traffic
from finetune_trainer.traffic.rows import (
    Exchange,
    Feedback,
    Rating,
    write_exchange,
    write_feedback,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
THINGS = ["coat", "hat", "glove", "scarf"]


def question(rng: random.Random, number: int) -> str:
    thing = rng.choice(THINGS)
    return f"a {thing} of number {rng.randrange(50)} to anna.lindgren.the.third{number}@example.com"


def id_of(hour: int, number: int) -> str:
    """Return the id of an answer of an hour."""
    time = START + hour * HOUR + timedelta(seconds=number)
    return f"{id_time(time)}-{number:022}-0123456789"


class MonitoredVersion:
    """A version in an output, and its traffic below the same folder."""

    def __init__(self, folder: Path, *, num_rows: int = 400, num_answers: int = 200) -> None:
        self.output, self.scratch = folder / "output", folder / "scratch"
        self.scratch.mkdir()
        store, rng = open_store(self.output.as_uri()), random.Random(1)
        files: dict[str, tuple[str, list[dict[str, object]]]] = {
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
        """Store 100 answers of as many users in an hour."""
        rng, begin = random.Random(hour), START + hour * HOUR
        rows = [
            Exchange(
                id=id_of(hour, number),
                time=begin + timedelta(seconds=number),
                endpoint="copy",
                version=3,
                sha256="",
                request={"messages": [{"role": "user", "content":
                    scrub_text(question(rng, number))}]},
                answer={"choices": [
                    {"message": {"content": answer or rng.choice(["good", "bad"])}}]},
                latency_seconds=0.1,
                user=f"u{hour}-{number}",
            )
            for number in range(100)
        ]  # fmt: skip
        key = segment_key(rows[0].time, rows[-1].time, num_rows=100, writer="w", number=1)
        self.traffic.write_bytes(key, b"".join(map(write_exchange, rows)))

    def rate(self, hour: int, number: int, rating: Rating) -> None:
        """Let a person rate an answer."""
        entry = Feedback(
            id=id_of(hour, number),
            time=START + (hour + 1) * HOUR,
            endpoint="copy",
            version=3,
            sha256="",
            who="ab12",
            rating=rating,
        )
        self.traffic.write_bytes(feedback_key(entry), write_feedback(entry))

    def task(self, hours: int, **monitor: object) -> LookTask:
        active = {
            "version": 3, "adapter": "shop.copy-v3", "manifestUri": self.manifest.as_uri(),
            "sha256": hashlib.sha256(self.manifest.read_bytes()).hexdigest(), "server": "s",
            "baseModel": "m", "storage": {"uri": self.output.as_uri()},
            "since": START.isoformat(),
        }  # fmt: skip
        return LookTask.model_validate(
            {"namespace": "shop", "endpoint": "copy", "job": "copy", "active": active,
             "traffic": {"uri": self.output.as_uri()},
             "monitor": {"every": "1h", "window": "1h", "minUsers": 50, **monitor},
             "until": (START + hours * HOUR).isoformat()}
        )  # fmt: skip

    def look(self, hours: int, **monitor: object) -> LookReport:
        return run_look(self.task(hours, **monitor), folder=self.scratch)
