"""What a FineTuneJob is rendered to.

``tests/golden/one-gpu/out.yaml`` holds the whole output of the base case. Every other case has
``out.diff``: how its objects differ from the base's objects of the same kind and name.
``UPDATE_GOLDEN=1 pytest ...`` writes both anew; read the difference before you commit it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from finetune_api.names import Owner
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.config import ConfigError, OperatorConfig
from finetune_operator.finetunejob.render.config import render_config_map
from finetune_operator.finetunejob.render.job import render_job
from finetune_operator.finetunejob.render.service import render_service
from kit.cases.goldens import GOLDEN, check_golden

BASE = GOLDEN / "one-gpu"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/in.yaml"))
IDENTITY = {"namespace": "team-a", "uid": "0b6c0c5e-7f5c-4d0e-9a51-3f2f5a0d7a11"}


def render(folder: Path) -> list[dict]:
    source = yaml.safe_load((folder / "in.yaml").read_text())
    config = OperatorConfig.model_validate(source.get("config") or {})
    job = FineTuneJob.from_wire(source["job"])
    owner = Owner(name=job.metadata.name, **IDENTITY)
    rendered = [render_config_map(job, owner)]
    if job.spec.resources.nodes > 1:
        rendered.append(render_service(owner, config))
    rendered += [render_job(job.spec, stage, owner, config) for stage in Stage]
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
    from finetune_operator.finetunejob.render.resources import whole_bytes

    assert whole_bytes(quantity) == num_bytes


@pytest.mark.parametrize("field", ["default_cpu", "prepare_cpu"])
def test_a_size_is_no_number_of_cpus(field):
    with pytest.raises(ConfigError, match=r"Cpu: .*16Gi"):
        OperatorConfig.load(environment={}, overrides={field: "16Gi"})
