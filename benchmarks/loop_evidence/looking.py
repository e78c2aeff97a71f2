"""What a look at captured answers costs: the monitor's own process over texts of real data sets.

The texts are those of banking77 (Casanueva et al. 2020, CC BY 4.0) and e2e (Novikova et al. 2017,
CC BY-SA 4.0), in the folder that ``FINETUNE_BENCHMARK_DATA`` names.
"""

from __future__ import annotations

import csv
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from finetune_api.protocol.monitoring import TASK, LookReport, LookTask
from finetune_trainer.serve.recorder.retention import SEGMENT_SECONDS
from finetune_trainer.serve.recorder.spool import SEGMENT_BYTES
from finetune_trainer.storage import ObjectStore, open_store, publish_folder
from finetune_trainer.traffic.places import id_time, segment_key
from finetune_trainer.traffic.reading import open_traffic
from finetune_trainer.traffic.rows import Exchange, write_exchange

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("FINETUNE_BENCHMARK_DATA", ROOT.parent / "shared" / "data"))
NUM_ANSWERS = 100_000
"""Of an hour."""
SHARE_WITHOUT_USER = 0.3
NUM_USERS = 50_000
NUM_REFERENCE = 5000
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLL_SECONDS = 0.02

Turns = list[str]
"""Texts of a conversation: user and assistant by turns; the last one is the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a look took.

    Attributes:
        num_answers: Answers that it looked at.
        num_bytes: Of their segments.
        seconds: From the start of the process to its end.
        peak_mib: Most resident memory of the process.
    """

    words: str
    num_answers: int
    num_segments: int
    num_bytes: int
    seconds: float
    cpu_seconds: float
    peak_mib: float


def costs(scale: float, folder: Path | None = None) -> Iterator[Cost]:
    """Yield what looks at an hour of answers cost, and one that makes up for three hours."""
    number = max(300, round(NUM_ANSWERS * scale))
    cases: list[tuple[str, Callable[[random.Random], Turns], int]] = [
        ("banking77: a question and its label", _intents(), 1),
        ("e2e: facts and a text of two sentences", _texts(), 1),
        ("conversations of nine turns", _conversations(), 1),
        ("e2e, the first look after an outage of six hours", _texts(), 6),
    ]
    for words, draw, hours in cases:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            world = World(Path(scratch), draw)
            for hour in range(hours):
                world.capture(hour, number)
            yield world.look(words, hours)


class World:
    """A published version and its traffic, in a folder."""

    def __init__(self, folder: Path, draw: Callable[[random.Random], Turns]) -> None:
        """Publish a version that was trained and evaluated on drawn conversations."""
        self._folder, self._draw, self._rng = folder, draw, random.Random(29)
        self._output = folder / "output"
        store = open_store(self._output.as_uri())
        inputs: dict[str, str] = {"run": "runs/shop/copy/u", "dataset": "d"}
        trained = [_training_row(n, draw(self._rng)) for n in range(NUM_REFERENCE)]
        evaluated = [
            {"prompt": "a", "tuned": draw(self._rng)[-1], "group": f"e{n}"}
            for n in range(NUM_REFERENCE)
        ]
        for place, name, rows in (
            ("datasets/d", "train.jsonl", trained),
            ("runs/shop/copy/u/evaluation", "samples.jsonl", evaluated),
            ("versions/shop/copy/3", "weights", [{}]),
        ):
            source = folder / "sources" / place
            source.mkdir(parents=True)
            (source / name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
            made = publish_folder(store, place, source, created_by="benchmark", inputs=inputs)
            inputs[place.rpartition("/")[2]] = made.digest
        self._traffic = open_traffic(self._output.as_uri(), "shop", "copy")
        self._num_answers = self._num_segments = self._num_bytes = 0

    def capture(self, hour: int, number: int) -> None:
        """Store answers of an hour in segments of the recorder's size."""
        begin, lines, size = START + hour * HOUR, list[tuple[datetime, bytes]](), 0
        for each in range(number):
            row = self._exchange(begin + each * HOUR / number, each)
            lines.append((row.time, write_exchange(row)))
            size += len(lines[-1][1])
            is_old = (row.time - lines[0][0]).total_seconds() >= SEGMENT_SECONDS
            if size >= SEGMENT_BYTES or is_old or each == number - 1:
                self._store(self._traffic, lines)
                lines, size = [], 0
        self._num_answers += number

    def look(self, words: str, hours: int) -> Cost:
        """Run the process of the monitor's Job over all that was captured."""
        task = self._task(hours).model_dump_json(by_alias=True, exclude_none=True)
        environment = {
            **os.environ,
            TASK: task,
            "FINETUNE_WORK_DIR": str(self._folder),
            "FINETUNE_TERMINATION_LOG": str(self._folder / "words"),
        }
        before, start = os.times(), time.perf_counter()
        command = [sys.executable, "-m", "finetune_trainer.monitor"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _peak_mib(process.pid))
            time.sleep(POLL_SECONDS)
        seconds, after = time.perf_counter() - start, os.times()
        report = LookReport.model_validate_json((self._folder / "words").read_text())
        if process.returncode or report.num_answers != self._num_answers:
            raise RuntimeError(f"the look has failed: {report.to_text()}")
        return Cost(
            words=words,
            num_answers=report.num_answers,
            num_segments=self._num_segments,
            num_bytes=self._num_bytes,
            seconds=seconds,
            cpu_seconds=sum(after[2:4]) - sum(before[2:4]),
            peak_mib=peak,
        )

    def _exchange(self, time: datetime, number: int) -> Exchange:
        rng, turns = self._rng, self._draw(self._rng)
        has_user = rng.random() >= SHARE_WITHOUT_USER
        # Of 50,000 users some ask often, and most seldom.
        user = hashlib.sha256(str(int(NUM_USERS * rng.random() ** 2)).encode()).hexdigest()
        return Exchange(
            id=f"{id_time(time)}-{number:022}-0123456789",
            time=time,
            endpoint="copy",
            version=3,
            sha256="0" * 64,
            request={"model": "copy", "messages": _messages(turns[:-1]), "temperature": 0},
            answer={
                "id": f"chatcmpl-{number}",
                "object": "chat.completion",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": turns[-1]},
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60},
            },
            latency_seconds=0.4,
            num_input_tokens=40,
            num_output_tokens=20,
            user=user if has_user else None,
            sender="0" * 64,
            finish_reason="stop",
        )

    def _store(self, traffic: ObjectStore, lines: list[tuple[datetime, bytes]]) -> None:
        data = b"".join(line for _, line in lines)
        times = (lines[0][0], lines[-1][0])
        writer = f"writer{self._num_segments % 2}"
        number = self._num_segments
        traffic.write_bytes(
            segment_key(*times, num_rows=len(lines), writer=writer, number=number), data
        )
        self._num_segments += 1
        self._num_bytes += len(data)

    def _task(self, hours: int) -> LookTask:
        manifest = self._output / "versions/shop/copy/3/manifest.json"
        active = {
            "version": 3,
            "adapter": "shop.copy-v3",
            "manifestUri": manifest.as_uri(),
            "sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
            "server": "s",
            "baseModel": "m",
            "storage": {"uri": self._output.as_uri()},
            "since": START.isoformat(),
        }
        return LookTask.model_validate(
            {
                "namespace": "shop",
                "endpoint": "copy",
                "job": "copy",
                "active": active,
                "traffic": {"uri": self._output.as_uri()},
                "monitor": {"every": "1h", "quality": {"answersPerWeek": 30}},
                "until": (START + hours * HOUR).isoformat(),
            }
        )


def _peak_mib(pid: int) -> float:
    # Not getrusage: there a process counts what its parent held when it was started.
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next(
        (int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")),
        0.0,
    )


def _messages(turns: Turns) -> list[dict[str, Any]]:
    return [
        {"role": "assistant" if number % 2 else "user", "content": text}
        for number, text in enumerate(turns)
    ]


def _training_row(number: int, turns: Turns) -> dict[str, Any]:
    return {"messages": _messages(turns), "metadata": {"group": f"g{number}"}}


def _read(name: str, *columns: str) -> list[tuple[str, ...]]:
    path = DATA / name
    if not path.exists():
        raise SystemExit(
            f"{path} is missing: name a folder with banking77 and e2e in FINETUNE_BENCHMARK_DATA"
        )
    with path.open(newline="") as file:
        return [tuple(row[column] for column in columns) for row in csv.DictReader(file)]


def _intents() -> Callable[[random.Random], Turns]:
    rows = _read("banking77/train.csv", "text", "category")

    def draw(rng: random.Random) -> Turns:
        text, label = rng.choice(rows)
        asked = f"Which intent is this banking query? {text} (case {rng.randrange(10**6)})"
        return [asked, label]

    return draw


def _texts() -> Callable[[random.Random], Turns]:
    rows = _read("e2e/devset.csv", "mr", "ref")
    return lambda rng: _text(rng.choice(rows), rng)


def _text(row: tuple[str, ...], rng: random.Random) -> Turns:
    facts, text = row
    return [f"Describe this restaurant, number {rng.randrange(10**6)}: {facts}", text]


def _conversations() -> Callable[[random.Random], Turns]:
    intents, texts = _intents(), _texts()

    def draw(rng: random.Random) -> Turns:
        asked = [[intents(rng)[0], texts(rng)[1]] for _ in range(5)]
        return [text for pair in asked for text in pair]

    return draw
