"""However a file is damaged, `prepare` ends with a data set or with words: no traceback, no hang.

A few hundred files are tried in every run, seeded; `make damaged-data` tries 10,000
(`FINETUNE_MUTATED_INPUTS`). Another seed is `FINETUNE_MUTATION_SEED`.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
from pathlib import Path
from types import FrameType

import pytest

from finetune_api.protocol.stage_results import PrepareResult
from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_trainer.errors import DataError, TrainerError, UserError
from finetune_trainer.prepare.stage import prepare
from finetune_trainer.report.events import EventEmitter
from kit.cases.mutations import PERSONAL, make_file
from kit.models.tiny_tokenizer import TinyContext

NUM_FILES = int(os.environ.get("FINETUNE_MUTATED_INPUTS", "300"))
FIRST_SEED = int(os.environ.get("FINETUNE_MUTATION_SEED", "0"))
SECONDS_PER_FILE = 20
NUM_PARTS = 4

CAMEL_CASE = re.compile(r"[A-Z][A-Za-z0-9]+")


def prepare_file(folder: Path, seed: int) -> PrepareResult | TrainerError:
    """Prepare one damaged file; anything but a result or a refusal is raised."""
    name, data = make_file(seed)
    (folder / "in").mkdir(parents=True)
    (folder / "in" / name).write_bytes(data)
    job = ResolvedJob.model_validate(
        {
            "namespace": "team-a",
            "name": "run",
            "uid": f"uid-{seed}",
            "spec": {
                "model": {"uri": "hf://example/tiny"},
                "dataset": {
                    "sources": [{"uri": f"file://{folder}/in/{name}"}],
                    "maxInvalidRows": 1000 if seed % 2 else 0,
                    "onTooLong": ("Refuse", "Drop", "Truncate")[seed % 3],
                },
                "output": {"uri": f"file://{folder}/out"},
                "evaluation": {"minPrompts": 1},
            },
        }
    )
    stream = io.StringIO()
    emit = EventEmitter(Stage.PREPARE, stream=stream)
    context = TinyContext(job=job, emit=emit, work_dir=folder / "work", cache_dir=folder / "cache")
    outcome: PrepareResult | TrainerError
    try:
        outcome = prepare(context)
    except (DataError, UserError) as error:
        outcome = error
    assert PERSONAL not in stream.getvalue()
    return outcome


def check_outcome(folder: Path, outcome: PrepareResult | TrainerError) -> None:
    """Check that a refusal can be told, that a data set is whole, and what neither may hold."""
    for path in (folder / "out").rglob("*"):
        # Not the row's text either: it is replaced before anything is written.
        assert not path.is_file() or PERSONAL.encode() not in path.read_bytes(), path.name
    if isinstance(outcome, TrainerError):
        assert CAMEL_CASE.fullmatch(outcome.reason)
        assert PERSONAL not in outcome.message
        assert outcome.message.encode()  # no half of a surrogate pair: it goes into events
        return
    data = folder / "out" / "datasets" / outcome.digest
    assert json.loads((data / "manifest.json").read_text())
    assert outcome.rows.train > 0


@pytest.mark.parametrize("seed", [4541])
def test_a_file_that_once_ended_otherwise_is_refused(tmp_path: Path, seed: int) -> None:
    check_outcome(tmp_path, prepare_file(tmp_path, seed))


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_any_damaged_file_ends_in_a_data_set_or_a_refusal(tmp_path: Path, part: int) -> None:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"seed {seed} takes longer than {SECONDS_PER_FILE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    try:
        for seed in range(FIRST_SEED + part, FIRST_SEED + NUM_FILES, NUM_PARTS):
            signal.alarm(SECONDS_PER_FILE)
            try:
                folder = tmp_path / str(seed)
                check_outcome(folder, prepare_file(folder, seed))
            except Exception as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
