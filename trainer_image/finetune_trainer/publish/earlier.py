"""What earlier jobs of the same name or schedule left: complete runs and sealed test rows.

A FineTuneJob that is deleted and applied again has another UID, and its status is empty. Storage
tells what was done for it: a run of the same content is taken over instead of made again, and the
rows that a schedule sealed stay sealed.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace

from pydantic import ValidationError

from finetune_api.protocol.stage_results import TakenOver
from finetune_api.protocol.trainer import LOCAL_UID_PREFIX, ResolvedJob
from finetune_api.v1alpha1.spec.dataset import Anchor
from finetune_api.v1alpha1.status.dataset import AnchorStatus
from finetune_trainer.data.keys import dataset_prefix, pointer_key
from finetune_trainer.data.rows import Side
from finetune_trainer.errors import StorageError
from finetune_trainer.publish.adapter import weights_file
from finetune_trainer.publish.versions import find_version
from finetune_trainer.run import RunStorage
from finetune_trainer.storage import AlreadyExists, read_json, read_manifest


def find_complete_run(storage: RunStorage, *, digest: str, revision: str) -> TakenOver | None:
    """Return an evaluated run of an earlier job of the same name and content, or None.

    A published one comes before others. Runs on one machine are found by their own UID instead.

    Args:
        storage: The run's.
        digest: Digest of the prepared data set.
        revision: Revision of the base model.

    Raises:
        StorageError: Storage failed.
    """
    job = storage.job
    if job.uid.startswith(LOCAL_UID_PREFIX):
        return None
    home = job.run_prefix.rpartition("/")[0] + "/"
    evaluated = re.compile(re.escape(home) + r"([^/]+)/evaluation/manifest\.json")
    keys = (evaluated.fullmatch(item.key) for item in storage.output.list(home))
    uids = sorted({found[1] for found in keys if found} - {job.uid})
    runs = [replace(storage, job=job.model_copy(update={"uid": uid})) for uid in uids]
    same = [run for run in runs if _is_same(run, job, digest=digest, revision=revision)]
    versions = [(found.number if (found := find_version(run)) else 0, run) for run in same]
    if not versions:
        return None
    number, run = max(versions, key=lambda each: each[0])
    key = f"{run.job.run_prefix}/adapter"
    weights = weights_file(read_manifest(run.output, key))
    return TakenOver(
        uid=run.job.uid,
        is_published=number > 0,
        uri=run.uri_of(key),
        sha256=weights.sha256,
        num_bytes=weights.num_bytes,
    )


def _is_same(run: RunStorage, job: ResolvedJob, *, digest: str, revision: str) -> bool:
    """Return whether a run has the content of a job; one that cannot be read has not."""
    try:
        pointer = read_json(run.output, pointer_key(run.job)) or {}
        body = read_json(run.output, f"{run.job.run_prefix}/job.json")
        theirs = ResolvedJob.from_json(json.dumps(body))
    except (ValueError, RecursionError):
        return False
    return (
        pointer.get("digest") == digest
        and pointer.get("modelRevision") == revision
        and theirs.content_digest == job.content_digest
    )


def job_of_run(storage: RunStorage) -> ResolvedJob:
    """Return the job as its stages after ``prepare`` have to read it: with the UID of its run."""
    job = storage.job
    if job.uid.startswith(LOCAL_UID_PREFIX):
        return job
    uid = (read_json(storage.output, pointer_key(job)) or {}).get("takenOver")
    return job if uid is None else job.model_copy(update={"uid": str(uid)})


def _anchor_key(job: ResolvedJob) -> str:
    return f"schedules/{job.namespace}/{job.schedule}/anchor.json"


def find_anchor(storage: RunStorage) -> AnchorStatus | None:
    """Return the sealed rows on record of the job's schedule; None where it names rows itself.

    The job that sealed its own rows has none to hold out again.

    Raises:
        StorageError: ``AnchorUnreadable``: nothing is sealed anew over a damaged record.
    """
    job, key = storage.job, _anchor_key(storage.job)
    if job.schedule is None or job.spec.dataset.anchor is not None:
        return None
    try:
        body = read_json(storage.output, key)
        known = None if body is None else AnchorStatus.model_validate(body)
    except (ValueError, ValidationError, RecursionError) as error:
        raise StorageError(
            "AnchorUnreadable",
            f"{storage.uri_of(key)} does not name the rows that schedule {job.schedule} sealed: "
            f"{error}. Put the file back",
        ) from error
    return None if known is None or known.job == job.name else known


def with_anchor(job: ResolvedJob, anchor: AnchorStatus) -> ResolvedJob:
    """Return a job that holds out sealed rows again."""
    named = Anchor(digest=anchor.digest, test_sha256=anchor.test_sha256)
    dataset = job.spec.dataset.model_copy(update={"anchor": named})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"dataset": dataset})})


def record_anchor(storage: RunStorage) -> None:
    """Put on record which rows the job's schedule has sealed, if no others are: it looked at them.

    Rows that the job itself names count, else those of its own test side.
    """
    job = storage.job
    if job.schedule is None:
        return
    named = job.spec.dataset.anchor
    if named is None:
        digest = str((read_json(storage.output, pointer_key(job)) or {})["digest"])
        test = read_manifest(storage.output, dataset_prefix(digest)).file(f"{Side.TEST}.jsonl")
        assert test is not None
        named = Anchor(digest=digest, test_sha256=test.sha256)
    anchor = AnchorStatus(job=job.name, digest=named.digest, test_sha256=named.test_sha256)
    body = anchor.model_dump_json(by_alias=True, indent=1) + "\n"
    with suppress(AlreadyExists):
        storage.output.write_bytes(_anchor_key(job), body.encode(), if_absent=True)
