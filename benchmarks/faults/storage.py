"""Rows about object storage: a real server that stops, refuses, is slow, or brings damage."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.faults.matrix import Outcome, Row, WrongEnd, once, seeds
from benchmarks.faults.runs import (
    ONE_RANK,
    STAGE_SECONDS,
    Runs,
    failed,
    kill_all,
    same,
    wait_for_step,
)

import local_s3
from kit.processes import moved_clock
from kit.processes.stages import Workbench
from kit.servers.faulty_s3 import FaultyS3, faulty_s3

OUTAGE_SECONDS = 120.0
SECRET_SECONDS = 60.0
"""How long the kubelet may take to bring a changed Secret to a running pod."""
SECRET = "store"
SKEW_SECONDS = 60.0
MOVES = {"an hour ahead": 3600, "an hour behind": -3600}


def storage_rows(runs: Runs) -> list[Row]:
    """Return the rows of this module."""
    rows = Storage(runs)
    return [
        Row(
            name="store-stopped",
            fault=f"the object store's processes stopped for {OUTAGE_SECONDS:.0f} s, at a random "
            "request of training",
            must="the same adapter in the same attempt",
            list_cells=seeds,
            run_cell=rows.stop_store,
        ),
        Row(
            name="store-away",
            fault="the object store stops for good",
            must="exit 73 once patience (here 20 s) is over",
            list_cells=once,
            run_cell=rows.lose_store,
        ),
        Row(
            name="store-storm",
            fault="half of all requests answered by 503 SlowDown, for the whole stage",
            must="the same adapter in the same attempt",
            list_cells=seeds,
            run_cell=rows.storm,
        ),
        Row(
            name="store-damaged-reads",
            fault="the trainer killed; then the first two reads of each file of the newest "
            "checkpoint arrive damaged",
            must="the same adapter",
            list_cells=once,
            run_cell=lambda _: rows.damage(times=2),
        ),
        Row(
            name="store-damaged-checkpoint",
            fault="the trainer killed; every read of the newest checkpoint arrives damaged",
            must="the checkpoint before it taken, and the same adapter",
            list_cells=once,
            run_cell=lambda _: rows.damage(times=10**6),
        ),
        Row(
            name="keys-rotated",
            fault="the key revoked while training, at a random step; the Secret's new one "
            f"{SECRET_SECONDS:.0f} s later",
            must="the same adapter in the same attempt",
            list_cells=seeds,
            run_cell=rows.rotate,
        ),
        Row(
            name="clock-moved-trainer",
            fault="the wall clock of the trainer's processes moved by an hour while training, and "
            f"back after {SKEW_SECONDS:.0f} s; the store refuses signatures that are 15 minutes "
            "off, as S3 does",
            must="the same adapter in the same attempt",
            list_cells=lambda _: list(MOVES),
            run_cell=rows.move_clock,
            unfit=moved_clock.unfit,
        ),
    ]


class Storage:
    """Runs the cells, each with a server of its own."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def stop_store(self, cell: str) -> Outcome:
        """Kill the server at a random request of the checkpoints, start it again later."""
        expected = self._runs.expected(ONE_RANK)
        with self._place() as (bench, server, link):
            left = random.Random(cell).randrange(1, 40)
            stopped = threading.Event()

            def count(_: str, path: str) -> None:
                nonlocal left
                left -= "/checkpoints/" in path
                if left <= 0 and not stopped.is_set():
                    stopped.set()
                    server.process.kill()
                    threading.Thread(target=bring_back, daemon=True).start()

            def bring_back() -> None:
                time.sleep(OUTAGE_SECONDS)
                again = local_s3.start(server.folder, buckets=("jobs",))
                server.process = again.process
                link.upstream = again.endpoint.removeprefix("http://")
                is_over.wait()  # the server dies with the thread that has started it

            is_over = threading.Event()
            link.on_request = count
            try:
                run = bench.run("train", timeout=STAGE_SECONDS)
            finally:
                is_over.set()
            if not stopped.is_set():
                raise WrongEnd("the server was not stopped")
            return same(run, expected, num_attempts=1)

    def lose_store(self, _: str) -> Outcome:
        """Stop the server for good."""
        with self._place({"FINETUNE_STORAGE_PATIENCE_SECONDS": "20"}) as (bench, _server, link):
            link.on_request = lambda _, path: link.shut() if "/step-3/" in path else None
            return Outcome(ends=failed(bench.run("train", timeout=STAGE_SECONDS), 73))

    def storm(self, cell: str) -> Outcome:
        """Refuse half of all requests."""
        expected = self._runs.expected(ONE_RANK)
        with self._place() as (bench, _server, link):
            link.seed(cell)
            link.share_of_503 = 0.5
            return same(bench.run("train", timeout=STAGE_SECONDS), expected, num_attempts=1)

    def damage(self, *, times: int) -> Outcome:
        """Kill the trainer after its second checkpoint; damage what the next attempt reads."""
        expected = self._runs.expected(ONE_RANK)
        with self._place() as (bench, server, link):
            process = bench.start("train")
            is_stored = threading.Event()

            def note(method: str, path: str) -> None:
                if method == "PUT" and path.endswith("/step-6/manifest.json"):
                    is_stored.set()

            link.on_request = note
            while not is_stored.wait(0.01):
                if process.poll() is not None:
                    raise WrongEnd(f"it ended: {bench.finish(process).messages[-300:]}")
            time.sleep(0.3)
            kill_all(process)
            link.damage_each(f"/checkpoints/step-{self._newest(server)}/", times=times)
            run = bench.run("train", timeout=STAGE_SECONDS)
            if not link.num_damaged:
                raise WrongEnd("nothing was damaged")
            is_passed_over = "passed over as damaged" in run.messages
            if is_passed_over != (times > 3):
                raise WrongEnd(f"the newest checkpoint was passed over: {is_passed_over}")
            words = "the checkpoint before it" if is_passed_over else "read again"
            return same(run, expected, num_attempts=2, ends=words)

    def rotate(self, cell: str) -> Outcome:
        """Revoke the key at a random step; bring the new one to the Secret later."""
        expected = self._runs.expected(ONE_RANK)
        with self._place() as (bench, server, _link):
            process = bench.start("train")
            if not wait_for_step(bench, process, random.Random(cell).randrange(1, 10)):
                raise WrongEnd(f"it ended: {bench.finish(process).messages[-300:]}")
            server.rotate("read-write")
            secrets = bench.folder / "secrets"
            timer = threading.Timer(
                SECRET_SECONDS, lambda: server.write_credentials(secrets, SECRET)
            )
            timer.start()
            run = bench.finish(process, timeout=STAGE_SECONDS)
            timer.cancel()
            return same(run, expected, num_attempts=1)

    def move_clock(self, cell: str) -> Outcome:
        """Move the trainer's wall clock; put it right later."""
        expected = self._runs.expected(ONE_RANK)
        with self._place() as (bench, _server, link):
            offset = bench.folder / "offset"
            offset.write_text("0")
            library = moved_clock.build(bench.folder)
            bench.env = {**bench.env, **moved_clock.environment(library, offset)}
            process = bench.start("train")
            if not wait_for_step(bench, process, 2):
                raise WrongEnd(f"it ended: {bench.finish(process).messages[-300:]}")
            offset.write_text(str(MOVES[cell]))
            timer = threading.Timer(SKEW_SECONDS, lambda: offset.write_text("0"))
            timer.start()
            run = bench.finish(process, timeout=STAGE_SECONDS)
            timer.cancel()
            if not link.num_skewed:
                raise WrongEnd(f"nothing was refused: {run.messages[-300:]}")
            return same(run, expected, num_attempts=1)

    @staticmethod
    def _newest(server: local_s3.LocalS3) -> int:
        """Return the step of the newest checkpoint that is whole."""
        pages = server.client().get_paginator("list_objects_v2").paginate(Bucket="jobs")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return max(
            int(key.split("/checkpoints/step-")[1].split("/")[0])
            for key in keys
            if "/checkpoints/step-" in key and key.endswith("/manifest.json")
        )

    @contextmanager
    def _place(
        self, env: dict[str, str] | None = None
    ) -> Iterator[tuple[Workbench, local_s3.LocalS3, FaultyS3]]:
        """Prepare a run on a server of its own behind a proxy."""
        folder = self._runs.new_folder()
        server = local_s3.start(folder / "s3", buckets=("jobs",))
        try:
            with faulty_s3(server.endpoint) as link:
                bench = self._runs.fresh(
                    {
                        "output": {"uri": "s3://jobs/out", "credentialsRef": {"name": SECRET}},
                        "s3": {"endpoint": link.endpoint},
                    }
                )
                secrets = server.write_credentials(bench.folder / "secrets", SECRET)
                bench.env = {"FINETUNE_CREDENTIALS_DIR": str(secrets), **(env or {})}
                bench.run_to("prepare")
                yield bench, server, link
        finally:
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
