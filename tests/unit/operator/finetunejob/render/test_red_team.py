"""garak beside an evaluation: where it stands, what it gets, how it begins and ends."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from finetune_api.names import Owner
from finetune_api.protocol.trainer import FailureClass, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.pods.admission import find_violations
from finetune_operator.finetunejob.pods.unstarted import cause_of_waiting
from finetune_operator.finetunejob.render.pod import render_pod_template
from finetune_operator.finetunejob.render.red_team import ATTACK
from finetune_operator.finetunejob.state.trimming import trim_pod
from kit.builders.jobs import job
from kit.cluster.sidecar import put_program, run_sidecar
from kit.processes.eventually import eventually

CONFIG = OperatorConfig(vllm_image="registry.corp/vllm:1", garak_image="registry.corp/garak:1")
OWNER = Owner(name="j", namespace="team-a", uid="u")
ATTACKED = {"engine": "VLLM", "redTeam": {"probes": ["dan"]}}


def spec_of(**spec):
    return FineTuneJob.from_wire(job(**{"evaluation": ATTACKED, **spec})).spec


def pod_of(stage=Stage.EVALUATE, config=CONFIG, **spec):
    return render_pod_template(spec_of(**spec), stage, OWNER, config)["spec"]


def variables_of(container):
    return {each["name"]: each["value"] for each in container["env"]}


def test_garak_gets_the_server_and_nothing_else_of_the_pod():
    output = {"uri": "s3://m", "credentialsRef": {"name": "key"}}
    template = {"volumes": [{"name": "mine", "emptyDir": {}}]}
    mounts = {"volumeMounts": [{"name": "mine", "mountPath": "/data"}]}
    pod = pod_of(output=output, resources={"gpusPerNode": 1}, podTemplate={**template, **mounts})
    (stage,), (server, garak) = pod["containers"], pod["initContainers"]
    assert garak["volumeMounts"] == [{"name": "garak", "mountPath": "/tmp"}]
    assert garak["securityContext"] == stage["securityContext"]
    assert garak["restartPolicy"] == "Always"
    assert set(garak["resources"]["limits"]) == {"cpu", "memory"}
    assert "garak" not in {mount["name"] for mount in server["volumeMounts"]}
    told = variables_of(stage)
    assert told["FINETUNE_RED_TEAM_IMAGE"] == garak["image"] == "registry.corp/garak:1"
    shared = {mount["mountPath"] for mount in stage["volumeMounts"] if mount["name"] == "garak"}
    assert shared == {told["FINETUNE_RED_TEAM_DIR"]}


@pytest.mark.parametrize(
    ("stage", "config", "evaluation"),
    [
        (Stage.TRAIN, CONFIG, ATTACKED),
        (Stage.PREPARE, CONFIG, ATTACKED),
        (Stage.PUBLISH, CONFIG, ATTACKED),
        (Stage.EVALUATE, CONFIG, {"engine": "VLLM"}),
        (Stage.EVALUATE, OperatorConfig(vllm_image="v"), ATTACKED),
        (Stage.EVALUATE, OperatorConfig(garak_image="g"), ATTACKED),
    ],
    ids=["train", "prepare", "publish", "nobody attacks", "no image of garak", "no server"],
)
def test_nowhere_else_stands_a_garak(stage, config, evaluation):
    pod = pod_of(stage, config, evaluation=evaluation)
    assert "garak" not in [each["name"] for each in pod.get("initContainers", [])]
    assert "garak" not in [each["name"] for each in pod["volumes"]]
    told = variables_of(pod["containers"][0])
    assert not [name for name in told if name.startswith("FINETUNE_RED_TEAM")]


def test_a_job_is_refused_where_there_is_no_image_and_a_policy_may_name_one():
    (violation,) = find_violations(spec_of(), OperatorConfig(vllm_image="v"))
    assert violation.reason == "RedTeamNotAllowed"
    words = str(violation)
    assert all(w in words for w in ("spec.evaluation.redTeam", "'Garak'", "garakImage", "leave"))
    policy = {"namespaces": ["team-*"], "garakImage": "g"}
    config = OperatorConfig.model_validate({"vllmImage": "v", "policies": [policy]})
    assert find_violations(spec_of(), config.for_namespace("team-a")) == []
    assert find_violations(spec_of(), config.for_namespace("lab"))


def waiting_pod(server, garak):
    states = {"vllm": server, "garak": garak}
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {},
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "node",
                 "initContainers": [{"name": name, "restartPolicy": "Always"} for name in states]},
        "status": {
            "phase": "Pending",
            "containerStatuses": [
                {"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}
            ],
            "initContainerStatuses": [
                {"name": n, "state": s, "started": "running" in s} for n, s in states.items()
            ],
        },
    }  # fmt: skip


RUNS = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
NOT_BEGUN = {"waiting": {"reason": "PodInitializing"}}
NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": "no such"}}


@pytest.mark.parametrize(
    ("server", "garak", "setting"),
    [(RUNS, NO_IMAGE, "garakImage"), (NO_IMAGE, NOT_BEGUN, "vllmImage")],
    ids=["garak's", "vLLM's"],
)
def test_an_image_that_cannot_be_pulled_is_told_as_whose_it_is(server, garak, setting):
    pod = trim_pod(waiting_pod(server, garak))
    cause = cause_of_waiting(pod, datetime(2026, 1, 1, 1, tzinfo=UTC))
    assert cause is not None
    assert cause.failure_class is FailureClass.IMAGE_ERROR
    assert "no such" in cause.message
    assert setting in cause.message


GARAK = """\
#!/bin/sh
if [ "$1" = --list_probes ]; then echo 'probes: dan.Dan_6_0'; exit 0; fi
echo "$2 $OPENAICOMPATIBLE_API_KEY $XDG_DATA_HOME $PYTHONHASHSEED" >> given
echo "attacking $2"
case "$(cat "$2")" in
  wait) trap 'echo leaving; exit 0' TERM; while :; do sleep 0.05; done;;
  fail) exit 3;;
esac
"""


@contextmanager
def attacking(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the container's command with a garak that writes down what it is given."""
    env = {
        "PATH": put_program(folder, "garak", GARAK),
        "FINETUNE_RED_TEAM_DIR": str(folder),
        "OPENAICOMPATIBLE_API_KEY": "none",
    }
    with run_sidecar(ATTACK, "attack", env=env) as process:
        yield process


def begin(folder: Path, **runs: str) -> None:
    for run, what in runs.items():
        (folder / f"{run}.yaml").write_text(what)
    (folder / "runs.draft").write_text("".join(f"{run}\n" for run in runs))
    (folder / "runs.draft").rename(folder / "runs")


def test_the_container_lists_its_probes_and_does_one_run_after_the_other(tmp_path):
    with attacking(tmp_path) as process:
        eventually((tmp_path / "listed").exists)
        assert "dan.Dan_6_0" in (tmp_path / "listing").read_text()
        assert not (tmp_path / "given").exists()
        begin(tmp_path, base="fail", tuned="pass")
        eventually((tmp_path / "ended").exists)
        given = (tmp_path / "given").read_text().splitlines()
        assert given == [f"{run}.yaml none {tmp_path}/data 0" for run in ("base", "tuned")]
        assert (tmp_path / "base.ended").read_text() == "3\n"
        assert (tmp_path / "tuned.ended").read_text() == "0\n"
        assert "attacking tuned.yaml" in (tmp_path / "tuned.log").read_text()
        assert process.poll() is None, "a container that ends would be started anew"
        process.terminate()
        assert process.wait(10) == 0


def test_a_container_that_attacks_ends_with_its_pod(tmp_path):
    with attacking(tmp_path) as process:
        begin(tmp_path, base="wait")
        eventually(lambda: (tmp_path / "given").exists())
        eventually(lambda: "attacking" in (tmp_path / "base.log").read_text())
        process.terminate()
        assert process.wait(10) == 0
        assert not (tmp_path / "ended").exists()


def test_a_container_that_was_killed_attacks_no_more(tmp_path):
    (tmp_path / "started").touch()
    begin(tmp_path, base="pass")
    with attacking(tmp_path) as process:
        eventually((tmp_path / "ended").exists)
        assert not (tmp_path / "given").exists()
        assert not (tmp_path / "base.ended").exists()
        process.terminate()
        assert process.wait(10) == 0


def test_an_image_without_garak_says_so(tmp_path):
    env = {"PATH": "/usr/bin:/bin", "FINETUNE_RED_TEAM_DIR": str(tmp_path)}
    with run_sidecar(ATTACK, "attack", env=env):
        eventually((tmp_path / "listed").exists)
        assert (tmp_path / "listed").read_text() == "127\n"
        assert "garak" in (tmp_path / "listing").read_text()
