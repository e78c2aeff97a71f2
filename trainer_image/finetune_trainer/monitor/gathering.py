"""Fetches what a version was trained and evaluated on: it says what is measured of its traffic."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from finetune_trainer.data.keys import dataset_prefix
from finetune_trainer.data.rows import Side
from finetune_trainer.errors import StorageError
from finetune_trainer.monitor.material import rows_of_evaluation, rows_of_training
from finetune_trainer.monitor.signals import Answered
from finetune_trainer.serve.recorder.scrubbing import scrub_text
from finetune_trainer.storage import MANIFEST_NAME, ObjectNotFound, ObjectStore, fetch_folder
from finetune_trainer.storage.manifest import Manifest, parse_manifest

NUM_OF_EACH = 5000
"""Rows that are taken of training, and of the evaluation."""
SAMPLES = "samples.jsonl"


def fetch_known_rows(
    store: ObjectStore, prefix: str, folder: Path, *, sha256: str = ""
) -> list[Answered]:
    """Return prompts of a version's training and answers of its evaluation, without personal data.

    Traffic is stored without it, so that what stands for it counts on both sides.

    Args:
        store: The output of the job that published the version.
        prefix: Folder of the version there.
        folder: Scratch folder.
        sha256: Digest that its manifest must have; empty for any.

    Raises:
        StorageError: The store fails, or files are not those that the manifest names.
    """
    inputs = _read_manifest(store, prefix, sha256).inputs
    evaluation = f"{inputs.get('run', '')}/evaluation"
    fetched = fetch_folder(store, evaluation, folder / "evaluation", only={SAMPLES})
    if fetched.digest != inputs.get("evaluation"):
        raise StorageError(
            "OtherEvaluation",
            f"{store.uri}/{evaluation} is not the evaluation that the manifest in {prefix} names. "
            "Publish the version again",
        )
    training = dataset_prefix(inputs.get("dataset", ""))
    fetch_folder(store, training, folder / "training", only={f"{Side.TRAIN}.jsonl"})
    rows = _draw(_read_rows(folder / "training" / f"{Side.TRAIN}.jsonl"))
    try:
        samples = rows_of_evaluation((folder / "evaluation" / SAMPLES).read_bytes().splitlines())
    except ValueError as error:
        raise StorageError("EvaluationUnreadable", f"{store.uri}/{evaluation}: {error}") from None
    return [_scrub(row) for row in [*rows_of_training(rows), *samples[:NUM_OF_EACH]]]


def fetch_job(
    store: ObjectStore, prefix: str, *, sha256: str = ""
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the spec of the job that published a version, and the version's scores by metric.

    The spec is empty where the job has left none that can be read.

    Args:
        store: As above.
        prefix: As above.
        sha256: As above.

    Raises:
        StorageError: As above.
    """
    inputs = _read_manifest(store, prefix, sha256).inputs
    try:
        spec = orjson.loads(store.read_bytes(f"{inputs.get('run', '')}/job.json"))["spec"]
        scores = orjson.loads(inputs.get("scores", "{}"))
        told = {name: str(tuned) for name, (_, tuned) in scores.items()}
    except (AttributeError, KeyError, ObjectNotFound, TypeError, ValueError):
        return {}, {}
    return (spec if isinstance(spec, dict) else {}), told


def _read_manifest(store: ObjectStore, prefix: str, sha256: str) -> Manifest:
    key = f"{prefix}/{MANIFEST_NAME}"
    data = store.read_bytes(key)
    found = hashlib.sha256(data).hexdigest()
    if sha256 not in ("", found):
        raise StorageError(
            "OtherVersion",
            f"{store.uri}/{key} has sha256 {found}, and the version that answers has {sha256}. "
            "Publish another version",
        )
    return parse_manifest(data, where=f"{store.uri}/{key}")


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        for line in stream:
            yield orjson.loads(line)


def _draw(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a part of the rows: always the same, drawn by their content, in memory alone."""
    return heapq.nsmallest(NUM_OF_EACH, rows, key=lambda row: hashlib.sha256(_bytes(row)).digest())


def _bytes(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_SORT_KEYS)


def _scrub(row: Answered) -> Answered:
    return Answered(
        prompt=None if row.prompt is None else scrub_text(row.prompt),
        answer=None if row.answer is None else scrub_text(row.answer),
    )
