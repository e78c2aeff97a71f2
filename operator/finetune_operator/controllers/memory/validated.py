"""Validated specs, kept as long as their objects are reconciled.

Validation takes 0.3 ms and 17 KiB. Equal parts of specs, such as those of a sweep's trials, are
kept once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

import orjson
from pydantic import ValidationError

from finetune_api.messages.messages import explain_in_line
from finetune_api.meta import KIND, APIModel
from finetune_api.v1alpha1.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_operator.finetunejob.state.excerpts import is_whole
from finetune_operator.kube.api.resource import Object
from finetune_operator.kube.cache.sharing import brief_key

T = TypeVar("T")

MAX_VALIDATED_BYTES = 64 * 2**20
"""What validated FineTuneJobs may take: 2,000 usual ones, of which each looked at last is kept."""
BASE_COST_BYTES = 17 * 1024
"""What the models of a small spec take."""
COST_OF_A_BYTE = 4
"""A text takes up to four bytes a character in memory, and as little as one on the wire."""


def parse_stored(
    obj: Object, parse: Callable[[Object], T], *, kind: str = KIND
) -> tuple[T | None, str]:
    """Return an object with its spec validated; None and the cause if it cannot be read."""
    # The status is not validated: a newer operator may have written more fields.
    wire: Object = {"metadata": obj["metadata"], "spec": obj.get("spec")}
    try:
        return parse(wire), ""
    except ValidationError as error:
        return None, explain_in_line(error, wire, kind=kind)


class SharedModels:
    """The validated parts of specs that are in use; models are never changed."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, bytes], APIModel] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def share(self, spec: FineTuneJobSpec, wire: Object) -> FineTuneJobSpec:
        """Return an equal spec whose parts are the first of all equal ones.

        Args:
            spec: The spec.
            wire: The JSON that it was validated from.
        """
        parts: dict[str, APIModel] = {}
        for name, field in FineTuneJobSpec.model_fields.items():
            given, part = wire.get(field.alias or name), getattr(spec, name)
            if given is not None and isinstance(part, APIModel):
                parts[name] = self._known.setdefault((name, brief_key(given)), part)
        return spec.model_copy(update=parts)


class _Known(NamedTuple):
    """A FineTuneJob with a validated spec, or the cause of failure."""

    generation: int
    job: FineTuneJob | None
    problem: str
    cost: int


class ValidatedJobs:
    """FineTuneJobs with validated specs, or the cause of failure. Event loop only.

    The size is bounded. At the limit, the namespace that uses most loses its least recently read
    jobs.

    Args:
        models: Shared with other keepers of specs.
        max_bytes: Limit for all of them, estimated from the JSON.
    """

    def __init__(self, models: SharedModels, *, max_bytes: int = MAX_VALIDATED_BYTES) -> None:
        self._models = models
        self._max_bytes = max_bytes
        self._known: dict[str, OrderedDict[str, _Known]] = {}
        self._costs: Counter[str] = Counter()
        self._total = 0
        self._namespaces: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._namespaces)

    def __contains__(self, uid: str) -> bool:
        return uid in self._namespaces

    def has(self, job: Object) -> bool:
        """Whether a FineTuneJob is known as it is now, so that its spec need not be read."""
        metadata = job["metadata"]
        known = self._known.get(metadata.get("namespace", ""), {}).get(metadata["uid"])
        return known is not None and known.generation == metadata.get("generation", 0)

    def of(self, job: Object) -> tuple[FineTuneJob | None, str]:
        """Return a FineTuneJob with its spec validated; None and the cause if it cannot be read.

        Args:
            job: The FineTuneJob; it has its whole spec, unless it is known.
        """
        metadata = job["metadata"]
        namespace, uid = metadata.get("namespace", ""), metadata["uid"]
        if not self.has(job):
            self.forget(uid)
            self._keep(namespace, uid, self._validate(job))
        kept = self._known[namespace]
        known = kept[uid]
        kept.move_to_end(uid)
        self._evict(uid)
        return known.job, known.problem

    def forget(self, uid: str) -> None:
        """Drop a FineTuneJob that has ended, is gone, or that nobody will look at for long."""
        namespace = self._namespaces.pop(uid, None)
        if namespace is None:
            return
        kept = self._known[namespace]
        cost = kept.pop(uid).cost
        self._costs[namespace] -= cost
        self._total -= cost
        if not kept:
            del self._known[namespace], self._costs[namespace]

    def _keep(self, namespace: str, uid: str, known: _Known) -> None:
        self._known.setdefault(namespace, OrderedDict())[uid] = known
        self._costs[namespace] += known.cost
        self._total += known.cost
        self._namespaces[uid] = namespace

    def _evict(self, looked_at: str) -> None:
        while self._total > self._max_bytes:
            largest = max(self._costs, key=self._costs.__getitem__)
            oldest = next(iter(self._known[largest]))
            if oldest == looked_at:
                return  # it alone is larger than the limit
            self.forget(oldest)

    def _validate(self, job: Object) -> _Known:
        assert is_whole(job), "an excerpt is no spec"
        generation = job["metadata"].get("generation", 0)
        validated, problem = parse_stored(job, FineTuneJob.from_stored)
        if validated is None:
            return _Known(generation, None, problem, BASE_COST_BYTES)
        cost = BASE_COST_BYTES + COST_OF_A_BYTE * len(orjson.dumps(job["spec"]))
        spec = self._models.share(validated.spec, job["spec"])
        return _Known(generation, validated.model_copy(update={"spec": spec}), "", cost)
