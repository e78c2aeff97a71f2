"""Writes FineTuneJobs that mean to break out: seeded, so that each can be written again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from hostile import pod_attacks, spec_attacks
from hostile.bending import Object

BASES: tuple[Object, ...] = (
    {
        "model": {"uri": "hf://org/model"},
        "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
        "output": {"uri": "s3://models", "credentialsRef": {"name": "bucket"}},
    },
    {
        "model": {"uri": "pvc://models/llama"},
        "dataset": {"sources": [{"uri": "pvc://rows/a.jsonl"}]},
        "output": {"uri": "pvc://results/adapters"},
        "resources": {"nodes": 2, "gpusPerNode": 8},
    },
    {
        "model": {"uri": "s3://models/llama", "credentialsRef": {"name": "reader"}},
        "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
        "evaluation": {"engine": "VLLM", "redTeam": {"probes": ["promptinject"], "maxPrompts": 8}},
        "output": {"uri": "s3://models", "credentialsRef": {"name": "bucket"}},
    },
)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One FineTuneJob that means to break out.

    Attributes:
        kind: What it tries.
        body: The object as the tenant writes it.
    """

    kind: str
    body: Object


def attacks(seed: int) -> Iterator[Attack]:
    """Yield attacks without end: each kind in turn, one in eight of two kinds at once."""
    rng = Random(seed)
    number = 0
    while True:
        for kind, attack in KINDS.items():
            spec = copy.deepcopy(rng.choice(BASES))
            body = {
                "apiVersion": "finetune.dev/v1alpha1",
                "kind": "FineTuneJob",
                "metadata": {"name": f"attack-{number}"},
                "spec": spec,
            }
            attack(rng, body)
            if rng.random() < 0.125:
                rng.choice(list(KINDS.values()))(rng, body)
            number += 1
            yield Attack(kind=kind, body=body)


KINDS: dict[str, Callable[[Random, Object], None]] = {
    "mounts": pod_attacks.try_mount,
    "sub-paths": pod_attacks.try_sub_path,
    "volumes": pod_attacks.try_volume,
    "environment": pod_attacks.try_variable,
    "annotations": pod_attacks.try_annotation,
    "labels": pod_attacks.try_label,
    "tolerations": pod_attacks.try_toleration,
    "classes and accounts": pod_attacks.try_classes,
    "nodes and affinity": pod_attacks.try_node,
    "fields of a pod": pod_attacks.try_field,
    "GPU resource": pod_attacks.try_resource,
    "reserved names": spec_attacks.try_reserved,
    "judges": spec_attacks.try_judge,
    "S3 endpoints": spec_attacks.try_endpoint,
    "trackers": spec_attacks.try_tracker,
    "URIs": spec_attacks.try_uri,
    "images": spec_attacks.try_image,
    "templates": spec_attacks.try_jinja,
    "names and owners": spec_attacks.try_identity,
    "sizes": spec_attacks.try_size,
    "remote code": spec_attacks.try_code,
    "metrics of one's own": spec_attacks.try_own_metric,
}
"""Every kind of attack; each writes itself into an object."""
