"""The FineTuneJob of a trial: the template with a value at each path."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

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
from finetune_api.v1alpha1.sweep_parameters import SEED_PATH, set_at, value_for
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
    replicate_of: int | None = None,
) -> Object:
    """Render the FineTuneJob of a trial, held after its training.

    Args:
        owner: The sweep.
        template: ``spec.template`` as the API server holds it.
        number: Counts from 1.
        values: A value for each path.
        replicate_of: The trial whose values these are, but for the seed.
    """
    spec = copy.deepcopy(template)
    for path, value in values.items():
        set_at(spec, path, value_for(path, value))
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


def with_seed(template: Object, values: Mapping[str, Value], repeat: int) -> dict[str, Value]:
    """Return values with the seed of the n-th replicate, which counts from 1."""
    seed = int((template.get("hyperparameters") or {}).get("seed", 42))
    return {**values, SEED_PATH: (seed + repeat) % (MAX_SEED + 1)}
