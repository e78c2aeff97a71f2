"""Specs that were validated, kept for as long as their objects are looked at.

To validate one takes 0.3 ms, and the models of one take 17 KiB: most of it says what the models of
other jobs say, such as all trials of a sweep, and is kept once.
"""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakValueDictionary

from pydantic import ValidationError

from finetune_api.messages import explain_in_line
from finetune_api.meta import APIModel
from finetune_api.v1alpha1.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_operator.kube.resource import Object
from finetune_operator.kube.sharing import brief_key

MAX_VALIDATED = 2048
"""FineTuneJobs kept validated: those looked at last."""


class SharedModels:
    """The validated parts of specs that are in use; models are never changed."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, bytes], APIModel] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def share(self, spec: FineTuneJobSpec, wire: Object) -> FineTuneJobSpec:
        """Return an equal spec whose parts are those that came first of all equal ones.

        Args:
            spec: The spec.
            wire: What it was validated from.
        """
        parts: dict[str, APIModel] = {}
        for name, field in FineTuneJobSpec.model_fields.items():
            given, part = wire.get(field.alias or name), getattr(spec, name)
            if given is not None and isinstance(part, APIModel):
                parts[name] = self._known.setdefault((name, brief_key(given)), part)
        return spec.model_copy(update=parts)


class ValidatedJobs:
    """FineTuneJobs whose specs were validated, or why they cannot be read. Event loop only.

    Args:
        models: Shared with whoever keeps specs besides.
    """

    def __init__(self, models: SharedModels) -> None:
        self._models = models
        self._known: OrderedDict[str, tuple[int, FineTuneJob | None, str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, uid: str) -> bool:
        return uid in self._known

    def of(self, job: Object) -> tuple[FineTuneJob | None, str]:
        """Return a FineTuneJob with its spec validated; None and why if that cannot be read."""
        metadata = job["metadata"]
        uid, generation = metadata["uid"], metadata.get("generation", 0)
        known = self._known.get(uid)
        if known is None or known[0] != generation:
            known = self._known[uid] = (generation, *self._validate(job))
            if len(self._known) > MAX_VALIDATED:
                self._known.popitem(last=False)
        self._known.move_to_end(uid)
        return known[1], known[2]

    def forget(self, uid: str) -> None:
        """Drop a FineTuneJob that has ended, is gone, or that nobody will look at for long."""
        self._known.pop(uid, None)

    def _validate(self, job: Object) -> tuple[FineTuneJob | None, str]:
        # The status is not validated: a newer operator may have written more into it.
        wire: Object = {"metadata": job["metadata"], "spec": job.get("spec")}
        try:
            validated = FineTuneJob.from_stored(wire)
        except ValidationError as error:
            return None, explain_in_line(error, wire)
        spec = self._models.share(validated.spec, wire["spec"])
        return validated.model_copy(update={"spec": spec}), ""
