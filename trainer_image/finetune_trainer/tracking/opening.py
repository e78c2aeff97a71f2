"""Which trackers a job names, each with its credentials."""

from __future__ import annotations

import os
from functools import partial

from finetune_api.meta import LocalObjectReference
from finetune_trainer.run import RunStorage, Workspace
from finetune_trainer.tracking.mlflow.server import MlflowServer, authorization
from finetune_trainer.tracking.mlflow.tracker import MlflowTracker
from finetune_trainer.tracking.tracker import Tracker
from finetune_trainer.tracking.wandb.tracker import KEY, WandbTracker


def trackers_of(storage: RunStorage, workspace: Workspace) -> list[Tracker]:
    """Return the trackers that the job names, without a request."""
    job, named = storage.job, storage.job.spec.tracking
    if named is None:
        return []
    trackers: list[Tracker] = []
    if named.mlflow is not None:
        read = partial(_read, storage, named.mlflow.credentials_ref)
        server = MlflowServer(named.mlflow.uri, lambda: authorization(read))
        trackers.append(MlflowTracker(job, named.mlflow, server))
    if named.wandb is not None:
        read_key = partial(_read, storage, named.wandb.credentials_ref, KEY)
        folder = workspace.scratch("wandb", fresh=True)
        trackers.append(WandbTracker(job, named.wandb, read_key, folder))
    return trackers


def _read(storage: RunStorage, reference: LocalObjectReference | None, key: str) -> str | None:
    """Return a credential of the Secret in a pod, or of the local environment."""
    if storage.credentials_dir is None:
        return os.environ.get(key) or None
    if reference is None:
        return None  # in a pod the environment is the administrator's, and not for this address
    return storage.access(reference).read_optional_credential(key)
