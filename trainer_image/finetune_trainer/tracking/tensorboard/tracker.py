"""Event files of a run in object storage, for TensorBoard.

Each piece of the curve is a file; TensorBoard reads them in the order of their names.
``told.json``, written last, lists them: an unlisted piece is overwritten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field, ValidationError

from finetune_api.meta import APIModel
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import ObjectNotFound, ObjectStore
from finetune_trainer.tracking.content import Facts, Point, identity_of, unknown_points
from finetune_trainer.tracking.tensorboard import events
from finetune_trainer.tracking.tracker import RunStatus, Tracker, TrackerError

FOLDER = "tensorboard"
FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 600.0
PAUSE_SHARE = 0.05
"""Of the time so far: a file for each twentieth, some 200 of them for two days."""
FACTS = "finetune/facts"
PARAMS = 400
"""Settings of a run that the table takes."""


class Told(APIModel):
    """The content of a run's files."""

    num_files: Annotated[int, Field(ge=0)] = 0
    last_steps: Annotated[dict[str, int], Field(default_factory=dict)]
    """Last step by metric."""
    has_settings: bool = False
    facts: Annotated[dict[str, str], Field(default_factory=dict)]
    """The facts of the last text; a stage adds to them."""
    is_over: bool = False


class EventFiles(Tracker):
    """Writes event files beside the run.

    ``open_output`` opens the storage of ``spec.output.uri`` without patience.
    """

    def __init__(self, job: ResolvedJob, open_output: Callable[[], ObjectStore], uri: str) -> None:
        super().__init__(uri)
        self._job = job
        self._open_output = open_output
        self._prefix = f"{job.run_prefix}/{FOLDER}"
        self._store: ObjectStore | None = None
        self._told = Told()
        self._facts = Facts()

    def open(self) -> None:
        """Read the files of earlier attempts and stages."""
        with self._telling():
            self._store = self._open_output()
            text = _read_if_there(self._store, f"{self._prefix}/told.json")
        if text is not None:
            try:
                self._told = Told.model_validate_json(text)
            except ValidationError as error:
                raise TrackerError(
                    f"{self.place}/told.json cannot be read; delete the folder to have it written"
                    " anew"
                ) from error
            self.page = self.place
        self.is_open = True

    def send_facts(self, facts: Facts) -> None:
        """Keep settings and tags for the next file, and write the values."""
        self._facts = facts
        self.send_points([])

    def send_points(self, points: Sequence[Point]) -> None:
        """Write a file with the new values and facts."""
        named = [
            Point(key=point.key.replace(".", "/"), value=point.value, step=point.step)
            for point in (*self._facts.points, *points)
        ]
        self._write(unknown_points(named, self._told.last_steps))

    def close(self, status: RunStatus) -> None:
        """Say how it ended."""
        self._facts = self._facts.and_also(Facts(tags={"status": status}))
        self._write([], is_over=status == "FINISHED", is_last=True)

    def pause(self, running_seconds: float) -> float:
        """Return a twentieth of the time so far, so that there are not thousands of files."""
        return min(max(PAUSE_SHARE * running_seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)

    def _write(
        self, points: Sequence[Point], *, is_over: bool = False, is_last: bool = False
    ) -> None:
        told, now = self._told, time.time()
        written = [events.scalar(point, wall_time=now) for point in points]
        update: dict[str, object] = {}
        # Settings are written once, because TensorBoard keeps the first.
        if not told.has_settings and (points or is_last):
            params = dict(list(self._facts.params.items())[:PARAMS])
            group = f"{self._job.namespace}/{self._job.name} {self._job.uid}"
            written.append(events.session_start(params, group=group, wall_time=now))
            update["has_settings"] = True
        known = {**identity_of(self._job), **self._facts.tags, **self._facts.params}
        facts = {**told.facts, **known}
        if facts != told.facts and (points or is_last):
            table = _table(facts)
            written.append(events.text(FACTS, table, step=told.num_files, wall_time=now))
            update["facts"] = facts
        if is_over and not told.is_over:
            written.append(events.session_end(wall_time=now))
            update["is_over"] = True
        if written:
            last = {point.key: point.step for point in sorted(points, key=lambda p: p.step)}
            update["last_steps"] = {**told.last_steps, **last}
            update["num_files"] = told.num_files + 1
            self._store_file(
                events.write_file(written, wall_time=now), told.model_copy(update=update)
            )

    def _store_file(self, data: bytes, told: Told) -> None:
        assert self._store is not None
        name = f"events.out.tfevents.{self._told.num_files:010d}.finetune"
        with self._telling():
            self._store.write_bytes(f"{self._prefix}/{name}", data)
            self._store.write_bytes(f"{self._prefix}/told.json", told.model_dump_json().encode())
        self._told = told
        self.page = self.place

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except TrainerError as error:
            raise TrackerError(f"the event files in {self.place}: {error.message}") from error


def _read_if_there(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.read_bytes(key)
    except ObjectNotFound:
        return None


def _table(texts: Mapping[str, str]) -> str:
    rows = (f"| {key} | {_cell(value)} |" for key, value in sorted(texts.items()))
    return "\n".join(("| name | value |", "|---|---|", *rows))


def _cell(value: str) -> str:
    return f"`{' '.join(value.split())}`".replace("|", "\\|")
