"""``spec.output`` and ``spec.s3``: where results go."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import SET_LIST, URI, APIModel, LocalObjectReference, Unique
from finetune_api.patterns import ENDPOINT_RULE, LABEL_RULE, PRINTED_RULE, PROSE_RULE, Texts


class Card(APIModel):
    """What the model card and the report say in the job's own words."""

    intended_use: Annotated[str, Field(min_length=1, max_length=768), Texts(PROSE_RULE)] | None = (
        None
    )
    """The purpose of the tuned model, and its users."""
    limits: Annotated[str, Field(min_length=1, max_length=768), Texts(PROSE_RULE)] | None = None
    """What the tuned model must not be used for, and where it is known to fail."""


class Output(APIModel):
    """Where results go."""

    uri: URI
    """Where results go: `s3://bucket/prefix`, `pvc://claim/path` or `file:///folder`. The run's own
    prefix ends in namespace, name and UID, so that no job overwrites another's."""
    credentials_ref: LocalObjectReference | None = None
    """Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. Default: the pod's own
    identity."""
    formats: Annotated[
        list[Literal["Adapter", "Merged"]],
        Field(min_length=1, max_length=2, json_schema_extra=SET_LIST),
        Unique,
    ] = ["Adapter"]
    """`Adapter` is always written; `Merged` adds the base model with the adapter folded in."""
    publish_as: Annotated[str, Field(min_length=1, max_length=52), Texts(LABEL_RULE)] | None = None
    """Name under which the version is published, and with whose newest version `overPublished`
    compares: that of another FineTuneJob of this namespace, which gets a further version. Default:
    the job's own name."""
    approval: Literal["Required", "NotRequired"] = "NotRequired"
    """`Required`: what has passed goal and gates is published once a FineTuneApproval with subject
    `Publication` names its evaluation. The administrator may require it for all jobs."""
    card: Card | None = None
    """Intended use and limits, for the model card and the report."""


class S3(APIModel):
    """How S3 is reached, for servers other than AWS."""

    endpoint: Annotated[str, Field(max_length=512), Texts(ENDPOINT_RULE)] | None = None
    """URL of the server, for example `https://s3.example.org`. Default: AWS, or the environment's
    `AWS_ENDPOINT_URL_S3`. On a cluster it must be on the operator's allow list."""
    region: Annotated[str, Field(max_length=64), Texts(PRINTED_RULE)] | None = None
    """Region name. Default: the environment's, else `us-east-1`."""
    addressing: Literal["Auto", "Path", "Virtual"] = "Auto"
    """`Path` puts the bucket into the path, as most servers other than AWS need. `Auto`: `Path`
    when `endpoint` is set."""
