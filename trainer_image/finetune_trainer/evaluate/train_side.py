"""Reads the train side: a sample of it for a prompt, or all of it; in a stream, within bounds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.keys import dataset_prefix
from finetune_trainer.data.prepared import REPORT_NAME, Prepared, fetch_prepared
from finetune_trainer.data.rows import RowFile, Side
from finetune_trainer.storage import ObjectStore, read_manifest

MAX_BYTES = 2**30
"""A larger train side is not fetched: GPUs are held while it is read."""
MAX_ROWS = 200_000
"""Of more rows every n-th is read for a prompt, which shows some of them."""


def read_train_split(
    output: ObjectStore, job: ResolvedJob, work_dir: Path, prepared: Prepared
) -> tuple[Iterator[dict[str, Any]], str]:
    """Fetch the train side of a run's data set and read rows of it, spread over all of them.

    Args:
        output: Storage rooted at the job's output.
        job: The effective job.
        work_dir: The run's scratch folder on this node.
        prepared: The data set, of which other sides were read.

    Returns:
        The rows, one after the other, and why there are none where there could be; or nothing.

    Raises:
        StorageError: The data set is incomplete, changed, or cannot be read.
    """
    rows, problem = _fetch(output, job, work_dir, prepared.digest)
    if rows is None:
        return iter(()), f"{problem}, and the prompt shows no labels and no examples of it"
    step = max(1, -(-prepared.report.rows.train // MAX_ROWS))
    return map(json.loads, islice(rows.lines(), 0, None, step)), ""


def read_stored_train_split(
    output: ObjectStore, job: ResolvedJob, work_dir: Path, digest: str
) -> tuple[Iterable[dict[str, Any]], str]:
    """Fetch the train side of any data set of the output and read all of its rows.

    Args:
        output: Storage rooted at the job's output.
        job: The effective job.
        work_dir: The run's scratch folder on this node.
        digest: Version of the data set.

    Returns:
        The rows, read from disk whenever somebody goes through them; and why there are none where
        there could be, or nothing.

    Raises:
        StorageError: The data set is not there, incomplete, changed, or cannot be read.
    """
    rows, problem = _fetch(output, job, work_dir, digest)
    return (() if rows is None else rows), problem


def _fetch(
    output: ObjectStore, job: ResolvedJob, work_dir: Path, digest: str
) -> tuple[RowFile | None, str]:
    name = f"{Side.TRAIN}.jsonl"
    manifest = read_manifest(output, dataset_prefix(digest))
    sizes = {file.path: file.num_bytes for file in manifest.files}
    size = sizes.get(name)
    if size is None:
        return None, "the data set has no train side"
    if size > MAX_BYTES:
        return None, (
            f"the train side is larger than the {MAX_BYTES / 2**30:g} GiB that an evaluation reads "
            f"({size / 2**30:.1f} GiB)"
        )
    left_out = sizes.keys() - {name, REPORT_NAME}
    folder, _, report = fetch_prepared(output, job, work_dir, digest, left_out=left_out)
    return RowFile(path=folder / name, num_rows=report.rows.train), ""
