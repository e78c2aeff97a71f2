"""Where a job tells of itself beside its own report: a tracker of experiments."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool

from finetune_api.meta import APIModel, LocalObjectReference
from finetune_api.patterns import MODEL_NAME_RULE, TRACKER_RULE, Texts


class Mlflow(APIModel):
    """An MLflow server."""

    uri: Annotated[str, Field(max_length=512), Texts(TRACKER_RULE)]
    """Its address, for example `https://mlflow.example.org`. On a cluster it must be on the
    operator's allow list, `allowedTrackers`."""
    credentials_ref: LocalObjectReference | None = None
    """Secret with `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and
    `MLFLOW_TRACKING_PASSWORD`. Default: none. A Secret that is not there does not keep the job from
    running."""
    experiment: Annotated[str, Field(max_length=200), Texts(MODEL_NAME_RULE)] | None = None
    """Experiment that the run is filed under; made if it is not there. Default: the namespace."""
    registered_model: Annotated[str, Field(max_length=200), Texts(MODEL_NAME_RULE)] | None = None
    """Registered model that gets a version when the adapter is published. Default: none."""
    upload_report: StrictBool = False
    """Store `report.html` with the run. It quotes held-out rows and answers, which leave the
    job's storage with it; its address is told in any case."""


class Tracking(APIModel):
    """A tracker that is told settings, metrics, scores and addresses; never what a row says.

    Training never waits for it, and a tracker that fails never fails a job.
    """

    mlflow: Mlflow
    """An MLflow server."""
