"""The parent's plan for its ranks, and their access to storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.storage import ObjectStore, StorageAccess, open_patiently
from finetune_trainer.storage.patience import EARLIER_STAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerPlan:
    """The parent's plan for every rank of its node, as JSON.

    Attributes:
        job: Path of ``job.json``.
        control_dir: Holds ``stop``, ``failure-<n>.json``, ``outcome.json``.
        model_dir: Local base model.
        dataset_dir: Local prepared data set.
        output_dir: Where Trainer saves checkpoints.
        final_dir: Where rank 0 saves the trained weights.
        curve: Path of ``metrics.jsonl``.
        resume_dir: Local checkpoint to resume from.
        resume_step: Its step.
        inputs: Inputs of the checkpoints, for their manifests.
        origin_dir: Trained weights to begin from, unless a checkpoint is resumed.
        credentials_dir: Mounted Secrets.
        credentials_name: Secret of the output.
        use_gpu: Ranks run on GPUs.
        lesson: Memory limits found by earlier attempts, as JSON.
    """

    job: str
    control_dir: str
    model_dir: str
    dataset_dir: str
    output_dir: str
    final_dir: str
    curve: str
    resume_dir: str | None
    resume_step: int
    inputs: dict[str, str]
    origin_dir: str | None
    credentials_dir: str | None
    credentials_name: str | None
    use_gpu: bool
    lesson: dict[str, Any] = field(default_factory=dict)


def storage_access(job: ResolvedJob, plan: WorkerPlan) -> StorageAccess:
    """Return how this rank reaches the output."""
    s3 = job.spec.s3
    return StorageAccess(
        endpoint=s3.endpoint,
        region=s3.region,
        addressing=s3.addressing,
        credentials_dir=Path(plan.credentials_dir) if plan.credentials_dir else None,
        credentials_name=plan.credentials_name,
    )


def open_run_store(job: ResolvedJob, plan: WorkerPlan, tell: Callable[[str], None]) -> ObjectStore:
    """Open the output's storage for a rank that waits while the store is away."""
    access = storage_access(job, plan)
    return open_patiently(job.spec.output.uri, access, tell, known=EARLIER_STAGES)
