"""Incidents: endings of attempts by their root cause, and how many of a class a stage survives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import APIModel, Integer

IncidentClass = Literal[
    "User",
    "Data",
    "Storage",
    "OutOfMemory",
    "Hang",
    "Infrastructure",
    "Preemption",
    "Internal",
]
"""What ended an attempt, as coarse as decisions are."""

Retries = Annotated[Integer, Field(ge=0, le=1000)]


class RetryPolicy(APIModel):
    """How often a stage is tried again after incidents of one class.

    An incident is the end of one attempt, whatever the number of its pods: the rank that failed of
    itself is the cause, and the others stop because of it. A class that is named here has a budget
    of its own; all others share `backoffLimit`. Preemptions, evictions, and nodes that are lost or
    restarted cost nothing; mistakes in the job or in its data are never tried again.
    """

    storage: Retries | None = None
    """After object storage or a disk failed (exit code 73)."""
    out_of_memory: Retries | None = None
    """After a GPU or a pod ran out of memory (exit code 77, `OOMKilled`). Each next attempt of a
    training that ran out of GPU memory takes half the micro batch."""
    hang: Retries | None = None
    """After training stood still (exit code 76)."""
    infrastructure: Retries | None = None
    """After a container was killed without a word, a node refused the pod, or an init container
    that something has added to it failed."""
