"""A Workload as it is cached: what is mirrored, with a type. ``workload.py`` makes it."""

from __future__ import annotations

from typing import Required, TypedDict


class WorkloadMetadata(TypedDict, total=False):
    """Metadata; ``job`` is the name of the Job it stands for, or empty."""

    name: Required[str]
    namespace: Required[str]
    uid: str
    resourceVersion: str
    creationTimestamp: str
    labels: Required[dict[str, str]]
    job: Required[str]


class WorkloadSpec(TypedDict):
    """The spec; ``deactivatedBy`` is the field manager that set ``active`` to false, or empty."""

    active: bool
    deactivatedBy: str
    queueName: str


class WorkloadCondition(TypedDict):
    """A condition; what is absent is empty."""

    type: str
    status: str
    reason: str
    message: str


class OpenCheck(TypedDict):
    """An admission check that has not passed."""

    name: str
    state: str
    message: str


class Requeue(TypedDict):
    """When Kueue queues it again, empty if it does not say so, and for which time."""

    at: str
    count: int


class WorkloadStatus(TypedDict):
    """The status.

    ``past`` is the admitted time before the present admission in seconds, ``evictions`` the number
    of evictions, ``clusterQueue`` where quota is reserved, ``admitted`` the last change of the
    condition ``Admitted``. The last two may be empty.
    """

    past: int
    evictions: int
    clusterQueue: str
    admitted: str
    requeue: Requeue
    checks: list[OpenCheck]
    conditions: list[WorkloadCondition]


class TrimmedWorkload(TypedDict):
    """A Workload as it is cached: what is mirrored."""

    metadata: WorkloadMetadata
    spec: WorkloadSpec
    status: WorkloadStatus
