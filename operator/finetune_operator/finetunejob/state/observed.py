"""What is known of one FineTuneJob at one moment: a frozen snapshot of caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from finetune_api.names import (
    MANAGED_BY_LABEL,
    QUEUE_LABEL,
    REPLICATE_LABEL,
    SCHEDULE_LABEL,
    SKIP_STEPS_ANNOTATION,
    SWEEP_LABEL,
    TRIAL_LABEL,
    TRIGGER_ANNOTATION,
    Owner,
)
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.finetunejob.state.decisions import Decision
from finetune_operator.finetunejob.state.retry import Ledger
from finetune_operator.finetunejob.state.trimmed import MAX_NAME_CHARACTERS, TrimmedJob, TrimmedPod
from finetune_operator.integrations.kueue.state import QueueState

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a child could not be created.

    Attributes:
        reason: Stable cause, such as ``NameTaken``, ``Forbidden`` (quota, rights) or ``Invalid``.
        message: What the API server said, and what to do.
        is_final: Whether trying again cannot help.
        retry_seconds: After how long to try again; it grows with every refusal in a row.
    """

    reason: str
    message: str
    is_final: bool = False
    retry_seconds: float = 10.0


class WarningEvent(NamedTuple):
    """A Warning Event of a child that is still so.

    Attributes:
        reason: CamelCase cause, of whoever tells it.
        message: Its words.
    """

    reason: str
    message: str


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Snapshot of a FineTuneJob and everything it owns.

    Attributes:
        job: The FineTuneJob as stored.
        parsed: The validated job; None if ``problem`` says why not.
        problem: Why the spec cannot be read.
        jobs: The trimmed Job of each stage that has one.
        pods: The trimmed pods of each stage.
        queue: Kueue's view of each queued stage.
        ledger: Pods seen so far, for counting attempts.
        missing: Stages whose Job is gone, confirmed by a live read.
        refusals: Stages whose creation the API server refused.
        warnings: Latest warning event of a pod that does not start, or of a Job that gets no pods,
            by name; None where there is none.
        decisions: What people have decided on the job's data; None if that cannot be read.
        endpoints: The FineTuneEndpoints that its sources name, by name; None if none can be read.
        has_kueue: Whether Kueue is there to be used.
        restored: By the name of what may be gone, whether it was and has just been made again; only
            what was tried.
        refused_change: What was told of a change of a child that the API server keeps refusing;
            empty if there is none.
    """

    job: Object
    parsed: FineTuneJob | None
    problem: str = ""
    jobs: Mapping[Stage, TrimmedJob] = field(default_factory=_empty)
    pods: Mapping[Stage, tuple[TrimmedPod, ...]] = field(default_factory=_empty)
    queue: Mapping[Stage, QueueState] = field(default_factory=_empty)
    ledger: Ledger = field(default_factory=Ledger)
    missing: frozenset[Stage] = frozenset()
    refusals: Mapping[Stage, Refusal] = field(default_factory=_empty)
    warnings: Mapping[str, WarningEvent | None] = field(default_factory=_empty)
    decisions: tuple[Decision, ...] | None = ()
    endpoints: Mapping[str, Object] | None = field(default_factory=_empty)
    has_kueue: bool = False
    restored: Mapping[str, bool] = field(default_factory=_empty)
    refused_change: str = ""

    @property
    def name(self) -> str:
        """Name of the FineTuneJob."""
        return str(self.job["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Namespace of the FineTuneJob."""
        return str(self.job["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """UID of the FineTuneJob."""
        return str(self.job["metadata"]["uid"])

    @property
    def is_trial(self) -> bool:
        """Whether it is one of a FineTuneSweep, which decides what becomes of it."""
        return SWEEP_LABEL in (self.job["metadata"].get("labels") or {})

    @property
    def is_in_a_queue(self) -> bool:
        """Whether a Job of its belongs to Kueue, which alone may start it."""
        return any(QUEUE_LABEL in job["metadata"]["labels"] for job in self.jobs.values())

    @property
    def owner(self) -> Owner:
        """The FineTuneJob as the owner of its children."""
        return Owner(namespace=self.namespace, name=self.name, uid=self.uid)


_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
)
_ANNOTATIONS = (SKIP_STEPS_ANNOTATION, TRIGGER_ANNOTATION)
_LABELS = (SWEEP_LABEL, TRIAL_LABEL, REPLICATE_LABEL, SCHEDULE_LABEL, MANAGED_BY_LABEL)
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
"""Finalizers that tell the garbage collector what becomes of the children."""
_OWNER = ("apiVersion", "kind", "name", "uid")


def trim_finetunejob(obj: Object) -> Object:
    """Keep of a FineTuneJob, a sweep, an endpoint or a schedule the metadata that is read.

    Nothing but the API server's 1.5 MB bounds the rest: other annotations, labels, field ownership,
    and owners that are none. An annotation longer than a label's value is no request. Of finalizers
    one is kept that is not the garbage collector's, and none where the children are to be orphaned.
    A controller whose fields are longer than any name is none that is known here.
    """
    metadata = obj["metadata"]
    kept = {key: metadata[key] for key in _METADATA if key in metadata}
    labels = metadata.get("labels") or {}
    if own := {key: labels[key] for key in _LABELS if key in labels}:
        kept["labels"] = own
    notes = metadata.get("annotations") or {}
    asked = {key: notes[key] for key in _ANNOTATIONS if 0 < len(notes.get(key, "")) <= 63}
    if asked:
        kept["annotations"] = asked
    finalizers = metadata.get("finalizers") or ()
    keeping = [name for name in finalizers if name != FOREGROUND]
    if keeping and ORPHAN not in keeping:
        kept["finalizers"] = keeping[:1]
    owners = metadata.get("ownerReferences") or ()
    controller: Object = next((owner for owner in owners if owner.get("controller")), {})
    read = {key: controller[key] for key in _OWNER if key in controller}
    if read and all(len(text) <= MAX_NAME_CHARACTERS for text in read.values()):
        kept["ownerReferences"] = [{**read, "controller": True}]
    return {**obj, "metadata": kept}
