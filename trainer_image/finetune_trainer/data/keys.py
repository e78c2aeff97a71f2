"""Where a run and its data set lie under the output."""

from __future__ import annotations

from finetune_api.protocol.trainer import ResolvedJob

POINTER_NAME = "dataset.json"


def pointer_key(job: ResolvedJob) -> str:
    """Return the key of the file that points the run at its data set and pins its base model."""
    return f"{job.run_prefix}/{POINTER_NAME}"


def dataset_prefix(digest: str) -> str:
    """Return the key prefix of a prepared data set."""
    return f"datasets/{digest}"


def uri_of(job: ResolvedJob, key: str) -> str:
    """Return the full URI of a key under the job's output."""
    return f"{job.spec.output.uri.rstrip('/')}/{key}"
