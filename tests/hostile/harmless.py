"""Objects that must pass: the examples, what the guides show, and sane variations of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from hostile.generator import BASES
from hostile.places import OPENED, SHIPPED, Place

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
FIELDS = frozenset(field.alias or name for name, field in FineTuneJobSpec.model_fields.items())

IN_WORDS: dict[str, Object] = {
    "credentials.md": {"allowedEndpoints": ["https://s3.example.org"]},
    "judge.md": {"allowedJudgeEndpoints": ["https://api.example.org/*"]},
    "kind.md": {"allowedEndpoints": ["http://172.18.0.1:8333"]},
    "queues.md": {"cacheClaim": "base-models"},
    "tracking.md": {"allowedTrackers": ["https://mlflow.example.org", "https://wandb.example.org"]},
}
"""Settings that a guide tells the administrator to make outside of a block of YAML."""


def documented() -> Iterator[tuple[str, Object, Place]]:
    """Yield every job and sweep of the examples and guides, where its guide says it may run."""
    files = [*ROOT.glob("examples/*/*.yaml"), *ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    for path in sorted(files):
        text = path.read_text()
        blocks = [text] if path.suffix == ".yaml" else re.findall(
            r"^```yaml\n(.*?)^```", text, re.M | re.S
        )  # fmt: skip
        found = [each for block in blocks for each in yaml.safe_load_all(block)]
        settings = {**SHIPPED.settings, **IN_WORDS.get(path.name, {})}
        for each in found:
            if isinstance(each, dict) and isinstance(each.get("config"), dict):
                told = {k: v for k, v in each["config"].items() if k != "policies"}
                settings = {**told, **settings}
        place = Place(name=path.name, settings=settings, policy=None)
        for number, each in enumerate(found):
            spec = _spec_of(each)
            if spec is not None:
                yield f"{path.relative_to(ROOT)}[{number}]", _job(f"harmless-{number}", spec), place


def _spec_of(document: Any) -> Object | None:
    """Return the spec of a job that a document is, holds, or shows a part of."""
    if not isinstance(document, dict):
        return None
    kind, spec = document.get("kind"), document.get("spec")
    if kind == "FineTuneJob":
        return _on_a_cluster(spec)
    if kind == "FineTuneSweep":
        return _on_a_cluster(spec["template"])
    shown = spec if kind is None and isinstance(spec, dict) else document
    if kind is not None or not shown.keys() <= FIELDS:
        return None
    return _on_a_cluster(_merged(copy.deepcopy(BASES[0]), shown))


def _merged(base: Any, change: Any) -> Any:
    if isinstance(base, dict) and isinstance(change, dict):
        return {**base, **{key: _merged(base.get(key), item) for key, item in change.items()}}
    return change


def _on_a_cluster(value: Any) -> Any:
    """Put into a bucket what lies beside the file of a job of one machine."""
    if isinstance(value, dict):
        return {key: _on_a_cluster(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_on_a_cluster(item) for item in value]
    if isinstance(value, str) and value.startswith("file://."):
        return "s3://here" + value.removeprefix("file://.").lstrip(".")
    return value


def _job(name: str, spec: Object) -> Object:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": spec,
    }


def harmless(seed: int) -> Iterator[tuple[str, Object, Place]]:
    """Yield what is documented, then variations of it without end."""
    known = list(documented())
    yield from known
    rng, number = Random(seed), 0
    while True:
        name, body, place = rng.choice(known)
        body = copy.deepcopy(body)
        for change in rng.sample(_CHANGES, rng.randint(1, 4)):
            change(rng, body["spec"])
        if rng.random() < 0.3:
            place, body["spec"] = OPENED, copy.deepcopy(BASES[number % len(BASES)])
            for change in rng.sample(_OPENED, rng.randint(1, 4)):
                change(rng, body["spec"])
        number += 1
        yield f"variation {number} of {name}", body, place


def _template(spec: Object) -> Object:
    template: Object = spec.setdefault("podTemplate", {})
    return template


def _mount(rng: Random, spec: Object) -> None:
    path = rng.choice(["/data", "/mnt", "/data/shared", "/mnt/models/llama-3.1", "/data/A_b"])
    source = rng.choice([{"persistentVolumeClaim": {"claimName": "shared"}}, {"emptyDir": {}},
                         {"configMap": {"name": "ours"}}])  # fmt: skip
    mount: Object = {"name": "mine", "mountPath": path}
    if rng.random() < 0.3:
        mount["subPath"] = rng.choice(["a", "a/b", "2026-11", "x.y"])
    _template(spec).update(volumes=[{"name": "mine", **source}], volumeMounts=[mount])


def _tune(rng: Random, spec: Object) -> None:
    values = {
        "NCCL_DEBUG": "INFO", "NCCL_IB_DISABLE": "1", "NCCL_P2P_DISABLE": "1", "TZ": "UTC",
        "GLOO_SOCKET_IFNAME": "eth0", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TOKENIZERS_PARALLELISM": "false", "CUDA_LAUNCH_BLOCKING": "1", "AWS_REGION": "eu-west-1",
        "APP_TEAM": "search",
    }  # fmt: skip
    names = rng.sample(sorted(values), 3)
    _template(spec)["env"] = [{"name": name, "value": values[name]} for name in names]


def _label(rng: Random, spec: Object) -> None:
    labels = {"team": "search", "cost-center": "4711", "owner": "ann", "project": "tuning",
              "app.kubernetes.io/part-of": "search", "environment": "staging",
              "sidecar.istio.io/inject": "false"}  # fmt: skip
    _template(spec)["labels"] = dict(rng.sample(sorted(labels.items()), 2))


def _place(rng: Random, spec: Object) -> None:
    template = _template(spec)
    template["nodeSelector"] = {"nvidia.com/gpu.product": rng.choice(["A100", "NVIDIA-H100-80GB"])}
    template["tolerations"] = [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    term = {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["big"]}]}
    template["affinity"] = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}
        }
    }


def _account(rng: Random, spec: Object) -> None:
    _template(spec).update(
        serviceAccountName=rng.choice(["trainer", "team-a.training"]),
        imagePullSecrets=[{"name": "registry"}],
        terminationGracePeriodSeconds=rng.choice([60, 300]),
    )


def _resources(rng: Random, spec: Object) -> None:
    resource = rng.choice(
        ["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.10gb", "gpu.intel.com/i915"]
    )
    spec["resources"] = {"gpusPerNode": 1, "gpuResource": resource, "memory": "64Gi", "cpu": "8"}
    interface = rng.choice(["eth0", "=net1", "^docker0", "eth,bond0"])
    spec["resources"]["network"] = {"interface": interface, "rdmaDevices": ["mlx5_0:1"]}


def _image(rng: Random, spec: Object) -> None:
    digest = "@sha256:" + "ab" * 32
    images = [
        "registry.corp/finetune-trainer:1",
        "ghcr.io/acme/trainer:1.2",
        f"acme/trainer{digest}",
    ]
    spec["trainer"] = {"image": rng.choice(images)}


def _count(rng: Random, spec: Object) -> None:
    spec.setdefault("evaluation", {})["looks"] = rng.choice(["Report", "Correct"])


_CHANGES: list[Callable[[Random, Object], None]] = [
    _mount, _tune, _label, _place, _account, _resources, _image, _count,
]  # fmt: skip
"""What people do without asking anybody."""


def _opened_pods(rng: Random, spec: Object) -> None:
    _template(spec).update(
        tolerations=[{"key": "dedicated", "value": "training", "effect": "NoSchedule"}],
        priorityClassName="batch-low", runtimeClassName="nvidia", schedulerName="batch-scheduler",
        labels={"team": "search", "example.org/owner": "ann", "tier": "batch-1"},
        annotations={"example.org/note": "x"}, serviceAccountName="train-1",
        nodeSelector={"pool": "shared-2"}, env=[{"name": "TEAM_NAME", "value": "a"}],
        volumes=[{"name": "m", "configMap": {"name": "ours"}}],
        volumeMounts=[{"name": "m", "mountPath": "/metrics"}],
    )  # fmt: skip


def _opened_image(rng: Random, spec: Object) -> None:
    images = ["registry.corp/finetune/llama:2", "registry.corp:5000/team/a/b:1"]
    spec["trainer"] = {"image": rng.choice(images)}


def _opened_addresses(rng: Random, spec: Object) -> None:
    endpoints = ["https://s3.corp.example", "https://S3.corp.example/", "http://10.0.0.5:9000"]
    spec["s3"] = {"endpoint": rng.choice(endpoints)}
    spec["tracking"] = {"mlflow": {"uri": "https://mlflow.corp.example/team"}}


def _opened_judge(rng: Random, spec: Object) -> None:
    hosts = ["https://a.judges.corp.example/v1", "https://judge.corp/v1"]
    spec.setdefault("evaluation", {})["judge"] = {"endpoint": rng.choice(hosts), "model": "m"}


def _opened_files(rng: Random, spec: Object) -> None:
    folders = ["/data/shared/llama", "/mnt/models", "/data/shared/a%20b", "/mnt/models/x.y/z"]
    spec["model"] = {"uri": f"file://{rng.choice(folders)}"}


_OPENED: list[Callable[[Random, Object], None]] = [
    _opened_pods, _opened_image, _opened_addresses, _opened_judge, _opened_files,
]  # fmt: skip
"""What people do where the administrator has opened it."""
