"""Trackers of experiments that a job reports to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool

from finetune_api.meta import APIModel, LocalObjectReference
from finetune_api.patterns import MODEL_NAME_RULE, TRACKER_RULE, Texts
from finetune_api.rule import Rule

MAX_TRACKERS = 3
"""Trackers in a status. Jobs name at most two today; older ones named three."""


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
    """Store `report.html` with the run. It quotes held-out rows and answers, which leave the job's
    storage with it; its address is always sent.
    """


class Wandb(APIModel):
    """Weights & Biases, through its own client."""

    uri: Annotated[str, Field(max_length=512), Texts(TRACKER_RULE)] = "https://api.wandb.ai"
    """Address of its server. On a cluster it must be on the operator's allow list,
    `allowedTrackers`."""
    credentials_ref: LocalObjectReference
    """Secret with `WANDB_API_KEY`. A Secret that is not there does not keep the job from running;
    `finetune run` takes the key from its environment."""
    entity: Annotated[str, Field(max_length=128), Texts(MODEL_NAME_RULE)] | None = None
    """Team or user that the run belongs to. Default: the key's own."""
    project: Annotated[str, Field(max_length=128), Texts(MODEL_NAME_RULE)] | None = None
    """Project that the run is filed under; made if it is not there. Default: the namespace."""


class Tracking(APIModel):
    """Trackers that get settings, metrics, scores and addresses, but no text of rows.

    Training never waits for them, and a tracker that fails never fails a job.
    """

    mlflow: Mlflow | None = None
    """An MLflow server."""
    wandb: Wandb | None = None
    """Weights & Biases."""

    @property
    def servers(self) -> dict[str, Mlflow | Wandb]:
        """The trackers with a server, by their field."""
        named = {"mlflow": self.mlflow, "wandb": self.wandb}
        return {field: server for field, server in named.items() if server is not None}


TRACKING_RULES: tuple[Rule, ...] = (
    Rule(
        rule="!has(self.tracking) || has(self.tracking.mlflow) || has(self.tracking.wandb)",
        message="tracking names no tracker: add mlflow or wandb, or leave tracking out",
        field="tracking",
        check=lambda s: s.tracking is None or bool(s.tracking.servers),
        only_new=True,  # a stored job may have named TensorBoard alone
    ),
)
