"""What a FineTuneJob is rendered to.

``tests/golden/one-gpu/out.yaml`` holds the whole output of the base case. Every other case has
``out.diff``: how its objects differ from the base's objects of the same kind and name.
``UPDATE_GOLDEN=1 pytest ...`` writes both anew; read the difference before you commit it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from finetune_api.meta import whole_bytes
from finetune_api.names import Owner
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.config import ConfigError, OperatorConfig
from finetune_operator.finetunejob.render.config import render_config_map
from finetune_operator.finetunejob.render.job import render_job
from finetune_operator.finetunejob.render.service import render_service
from kit.builders.jobs import job
from kit.cases.goldens import GOLDEN, check_golden

BASE = GOLDEN / "one-gpu"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/in.yaml"))
IDENTITY = {"namespace": "team-a", "uid": "0b6c0c5e-7f5c-4d0e-9a51-3f2f5a0d7a11"}


def render(folder: Path) -> list[dict]:
    source = yaml.safe_load((folder / "in.yaml").read_text())
    config = OperatorConfig.model_validate(source.get("config") or {})
    wanted = FineTuneJob.from_wire(source["job"])
    owner = Owner(name=wanted.metadata.name, **IDENTITY)
    rendered = [render_config_map(wanted, owner)]
    if wanted.spec.resources.nodes > 1:
        rendered.append(render_service(owner, config))
    rendered += [render_job(wanted.spec, stage, owner, config) for stage in Stage]
    return rendered


@pytest.mark.parametrize("case", CASES)
def test_a_job_renders_to_its_golden_children(case):
    check_golden(case, BASE, render)


@pytest.mark.parametrize("case", CASES)
def test_every_pod_meets_the_restricted_pod_security_standard(case):
    for manifest in render(GOLDEN / case):
        if manifest["kind"] != "Job":
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {key for volume in pod["volumes"] for key in volume if key != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    ("quantity", "cpus"), [("500m", 1), ("1", 1), ("1500m", 2), ("2.5", 3), ("64", 64), ("0", 1)]
)
def test_threads_are_the_cpu_limit_rounded_up(quantity, cpus):
    from finetune_operator.finetunejob.render.resources import whole_cpus

    assert whole_cpus(quantity) == cpus


@pytest.mark.parametrize(
    ("quantity", "num_bytes"),
    [
        ("100Gi", 100 * 2**30),
        ("1.5Mi", 3 * 2**19),
        ("2k", 2000),
        ("3T", 3 * 10**12),
        ("4096", 4096),
    ],
)
def test_the_limit_of_the_work_folder_is_handed_over_in_bytes(quantity, num_bytes):
    assert whole_bytes(quantity) == num_bytes


@pytest.mark.parametrize(
    ("num_gpus", "settings", "expected"),
    [
        (0, {}, ("4", "16Gi")),
        (1, {}, ("4", "16Gi")),
        (2, {}, ("8", "32Gi")),
        (8, {}, ("32", "128Gi")),
        (1, {"default_memory": "6Gi", "default_cpu": "1800m"}, ("1800m", "6Gi")),
        (8, {"default_memory": "200Gi", "default_cpu": "64"}, ("64", "200Gi")),
        (3, {"default_memory_per_gpu": "34359738369", "default_cpu_per_gpu": "1.5"},
         ("4500m", "103079215107")),
        (3, {"default_memory_per_gpu": "16500M"}, ("12", "49500000000")),
        (3, {"default_memory_per_gpu": "5.5Gi"}, ("12", "16896Mi")),
        (4, {"default_memory_per_gpu": "0Gi", "default_cpu_per_gpu": "0"}, ("4", "16Gi")),
    ],
)  # fmt: skip
def test_default_cpu_and_memory_grow_with_the_gpus_of_a_pod(num_gpus, settings, expected):
    from finetune_operator.finetunejob.render.resources import cpu_of, memory_of

    spec = FineTuneJob.from_wire(job(resources={"gpusPerNode": num_gpus})).spec
    config = OperatorConfig(**settings)
    found = [(cpu_of(spec, stage, config), memory_of(spec, stage, config)) for stage in Stage]
    by_stage = dict(zip(Stage, found, strict=True))
    assert by_stage[Stage.TRAIN] == by_stage[Stage.EVALUATE] == expected
    assert by_stage[Stage.PREPARE] == by_stage[Stage.PUBLISH] == ("1", "4Gi")


def test_what_a_job_says_stands_above_and_below_the_default():
    from finetune_operator.finetunejob.render.resources import render_resources

    asked = {"nodes": 2, "gpusPerNode": 8, "cpu": "6", "memory": "100G"}
    spec = FineTuneJob.from_wire(job(resources=asked)).spec
    found = render_resources(spec, Stage.TRAIN, OperatorConfig(), has_kueue=True)
    assert found["limits"] == {"cpu": "6", "memory": "100G", "nvidia.com/gpu": "8"}
    assert found["requests"] == found["limits"]


@pytest.mark.parametrize("field", ["default_cpu", "prepare_cpu"])
def test_a_size_is_no_number_of_cpus(field):
    with pytest.raises(ConfigError, match=r"Cpu: .*16Gi"):
        OperatorConfig.load(environment={}, overrides={field: "16Gi"})
