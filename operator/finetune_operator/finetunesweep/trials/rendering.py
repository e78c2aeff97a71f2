"""The FineTuneJob of a trial: the template with a value at each path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from finetune_api.meta import API_VERSION, KIND
from finetune_api.names import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    REPLICATE_LABEL,
    SWEEP_LABEL,
    TRIAL_LABEL,
    Owner,
    trial_name,
)
from finetune_api.v1alpha1.evaluation.objective import VALIDATION_LOSS, metric_of
from finetune_api.v1alpha1.finetunejob import IMMUTABLE_FIELDS, FineTuneJob, FineTuneJobSpec
from finetune_api.v1alpha1.finetunesweep import FineTuneSweepSpec
from finetune_api.v1alpha1.spec.sweep_parameters import SEED_PATH, set_at, value_for
from finetune_operator.finetunesweep.search.space import Value

Object = dict[str, Any]

HOLD_AFTER = "Train"
MAX_SEED = 2147483647


def render_trial(
    owner: Owner,
    template: Object,
    number: int,
    values: Mapping[str, Value],
    *,
    scoring: Object | None = None,
    replicate_of: int | None = None,
    requested_by: str | None = None,
) -> Object:
    """Render the FineTuneJob of a trial, held after its training.

    Args:
        owner: The sweep.
        template: ``spec.template`` as the API server holds it; the result shares its parts.
        number: Counts from 1.
        values: A value for each path.
        scoring: Its ``evaluation.validation``, as :func:`scoring_of` returns it.
        replicate_of: The trial whose values these are, with another seed.
        requested_by: The requester of the sweep; None if unknown.
    """
    spec = render_recipe(template, values, scoring=scoring, requested_by=requested_by)
    spec["holdAfter"] = HOLD_AFTER
    labels = {
        SWEEP_LABEL: owner.name,
        TRIAL_LABEL: str(number),
        MANAGED_BY_LABEL: MANAGED_BY,
    }
    if replicate_of is not None:
        labels[REPLICATE_LABEL] = str(replicate_of)
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": trial_name(owner.name, number),
            "namespace": owner.namespace,
            "labels": labels,
            "ownerReferences": [owner.reference()],
        },
        "spec": spec,
    }


def render_recipe(
    template: Object,
    values: Mapping[str, Value],
    *,
    scoring: Object | None = None,
    requested_by: str | None = None,
) -> Object:
    """Render a trial's spec, mutable fields as in the template, for :func:`render_trial`."""
    spec = dict(template)
    for path, value in values.items():
        _copy_along(spec, path)
        set_at(spec, path, value_for(path, value))
    if requested_by is not None:
        spec["requestedBy"] = requested_by
    if scoring is not None:
        spec["evaluation"] = {**(spec.get("evaluation") or {}), "validation": scoring}
    return spec


def _copy_along(spec: Object, path: str) -> None:
    """Replace the objects above a path by copies: to copy a whole template costs ten times that."""
    target = spec
    for part in path.split(".")[:-1]:
        if not isinstance(target.get(part), dict):
            return
        target[part] = target = dict(target[part])


def scoring_of(spec: FineTuneSweepSpec) -> Object | None:
    """Return what a trial's answers to validation rows are scored by; None where none is asked."""
    metric = metric_of(spec)
    if metric == VALIDATION_LOSS:
        return None
    return {"metric": metric, "maxSamples": spec.objective.max_samples}


def with_seed(template: Object, values: Mapping[str, Value], repeat: int) -> dict[str, Value]:
    """Return values with the seed of the n-th replicate, which counts from 1."""
    seed = int((template.get("hyperparameters") or {}).get("seed", 42))
    return {**values, SEED_PATH: (seed + repeat) % (MAX_SEED + 1)}


def has_recipe(wanted: Object, spec: Object) -> bool:
    """Return whether a FineTuneJob has exactly the immutable fields of a rendered trial.

    Mutable fields are not compared. Defaults of the schema may be absent on either side. A spec
    that cannot be read does not match.

    Args:
        wanted: The spec as it is rendered.
        spec: The whole spec of the FineTuneJob.
    """
    try:
        first, second = _read(wanted), _read(spec)
    except ValidationError:
        return False
    return all(getattr(first, name) == getattr(second, name) for name in _FIXED)


_FIXED = tuple(
    name
    for name, field in FineTuneJobSpec.model_fields.items()
    if (field.alias or name) in IMMUTABLE_FIELDS
)


def _read(spec: Object) -> FineTuneJobSpec:
    return FineTuneJob.from_stored({"metadata": {"name": "trial"}, "spec": spec}).spec
