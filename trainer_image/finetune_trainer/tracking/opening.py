"""Which trackers a job names, each with its credentials."""

from __future__ import annotations

import os
from functools import partial

from finetune_api.meta import LocalObjectReference
from finetune_trainer.context import StageContext
from finetune_trainer.storage import open_store
from finetune_trainer.tracking.mlflow.server import MlflowServer, authorization
from finetune_trainer.tracking.mlflow.tracker import MlflowTracker
from finetune_trainer.tracking.tensorboard.tracker import FOLDER, EventFiles
from finetune_trainer.tracking.tracker import Tracker
from finetune_trainer.tracking.wandb.tracker import KEY, WandbTracker


def trackers_of(context: StageContext) -> list[Tracker]:
    """Return the trackers that the job names, without a request."""
    job, named = context.job, context.job.spec.tracking
    if named is None:
        return []
    trackers: list[Tracker] = []
    if named.mlflow is not None:
        read = partial(_read, context, named.mlflow.credentials_ref)
        server = MlflowServer(named.mlflow.uri, lambda: authorization(read))
        trackers.append(MlflowTracker(job, named.mlflow, server))
    if named.wandb is not None:
        read_key = partial(_read, context, named.wandb.credentials_ref, KEY)
        folder = context.scratch("wandb", fresh=True)
        trackers.append(WandbTracker(job, named.wandb, read_key, folder))
    if named.tensorboard is not None:
        # Without patience: nothing waits for these files.
        store = partial(open_store, job.spec.output.uri, context.access())
        uri = context.uri_of(f"{job.run_prefix}/{FOLDER}")
        trackers.append(EventFiles(job, store, uri))
    return trackers


def _read(context: StageContext, reference: LocalObjectReference | None, key: str) -> str | None:
    """Return a credential of the Secret in a pod, or of the local environment."""
    if context.credentials_dir is None:
        return os.environ.get(key) or None
    if reference is None:
        return None  # in a pod the environment is the administrator's, and not for this address
    return context.access(reference).read_optional_credential(key)
