"""Objects at the size limit, as a crowd of one tenant's jobs has them."""

from __future__ import annotations

from finetune_api.meta import API_VERSION
from finetune_api.v1alpha1.rules.sizes import MAX_PART_LENGTHS
from finetune_operator.kube.api.resource import Object
from kit.cluster.simulation import finetunejob

NUM_TRIALS = 100


def spec_at_the_limit(name: str) -> Object:
    """Return fields of a spec that are as large as they may be, in the dearest of characters."""
    sign = "\u6f22"  # two bytes in memory, three on the wire
    model, dataset, evaluation, pod_template = (
        MAX_PART_LENGTHS[part] - 1200 for part in ("model", "dataset", "evaluation", "podTemplate")
    )
    text = name + sign * (dataset // 4)
    source = {"uri": "s3://data/rows.csv", "template": text, "system": text}
    return {
        "model": {
            "uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
            "chatTemplate": {"text": name + sign * model},
        },
        "dataset": {"sources": [source, {**source, "uri": "s3://data/more.csv"}]},
        "evaluation": {"jsonSchema": {"text": f'{{"title": "{name}{sign * evaluation}"}}'}},
        "podTemplate": {
            "env": [
                {"name": f"APP_NOTE_{n}", "value": name + sign * (pod_template // 4)}
                for n in range(4)
            ]
        },
    }


def sweep_at_the_limit(name: str, namespace: str) -> Object:
    """Return a sweep whose trials are all under way at once."""
    return {
        "apiVersion": API_VERSION,
        "kind": "FineTuneSweep",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "template": finetunejob(name, namespace, **spec_at_the_limit(name))["spec"],
            "parameters": [
                {
                    "path": "hyperparameters.learningRate",
                    "logUniform": {"min": "1e-5", "max": "1e-2"},
                }
            ],
            "trials": NUM_TRIALS,
            "parallelism": NUM_TRIALS,
            "objective": {"metric": "validationLoss"},
        },
    }
