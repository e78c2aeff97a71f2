"""The vLLM server beside an evaluation: where it stands, what it sees, how it begins and ends."""

from __future__ import annotations

import signal
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
from finetune_operator.finetunejob.pods.unstarted import cause_of_waiting, is_stuck
from finetune_operator.finetunejob.render.engine import SERVE
from finetune_operator.finetunejob.render.pod import render_pod_template
from finetune_operator.finetunejob.state.trimming import trim_pod
from kit.builders.jobs import job
from kit.cluster.sidecar import put_program, run_sidecar
from kit.processes.eventually import eventually

CONFIG = OperatorConfig(vllm_image="registry.corp/vllm:1")
OWNER = Owner(name="j", namespace="team-a", uid="u")


def spec_of(**spec):
    return FineTuneJob.from_wire(job(**{"evaluation": {"engine": "VLLM"}, **spec})).spec


def pod_of(stage=Stage.EVALUATE, config=CONFIG, **spec):
    return render_pod_template(spec_of(**spec), stage, OWNER, config)["spec"]


def test_only_the_server_has_the_gpus_and_it_writes_nowhere_but_to_its_own_folder():
    output = {"uri": "s3://m", "credentialsRef": {"name": "key"}}
    pod = pod_of(output=output, resources={"gpusPerNode": 1})
    (stage,), (server,) = pod["containers"], pod["initContainers"]
    assert "nvidia.com/gpu" not in stage["resources"]["limits"]
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert server["restartPolicy"] == "Always"
    assert server["securityContext"] == stage["securityContext"]
    writable = {m["mountPath"] for m in server["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/tmp", "/dev/shm"}
    names = {mount["name"] for mount in server["volumeMounts"]}
    assert names == {"work", "cache", "shm", "engine"}
    variables = {each["name"]: each["value"] for each in stage["env"]}
    assert "FINETUNE_NUM_GPUS" not in variables
    assert variables["FINETUNE_ENGINE_IMAGE"] == server["image"] == "registry.corp/vllm:1"


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRAIN, Stage.PUBLISH])
def test_no_other_stage_has_a_server(stage):
    assert "initContainers" not in pod_of(stage)


def test_without_an_image_no_server_stands_there_and_the_stage_is_told_nothing_of_one():
    pod = pod_of(config=OperatorConfig())
    assert "initContainers" not in pod
    assert not [v for v in pod["containers"][0]["env"] if v["name"].startswith("FINETUNE_ENGINE")]


def test_a_job_that_asks_for_a_server_where_there_is_none_is_refused_and_a_policy_may_name_one():
    (violation,) = find_violations(spec_of(), OperatorConfig())
    assert violation.reason == "EngineNotAllowed"
    words = str(violation)
    assert all(
        w in words for w in ("spec.evaluation.engine", "'VLLM'", "vllmImage", "Transformers")
    )
    policy = {"namespaces": ["team-*"], "vllmImage": "registry.corp/vllm:1"}
    config = OperatorConfig.model_validate({"policies": [policy]})
    assert find_violations(spec_of(), config.for_namespace("team-a")) == []
    assert find_violations(spec_of(), config.for_namespace("lab"))
    assert find_violations(FineTuneJob.from_wire(job()).spec, OperatorConfig()) == []


def waiting_pod(server):
    waiting = {"waiting": {"reason": "PodInitializing"}}
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {},
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "node",
                 "initContainers": [{"name": "vllm", "restartPolicy": "Always"}]},
        "status": {
            "phase": "Pending",
            "containerStatuses": [{"name": "trainer", "state": waiting}],
            "initContainerStatuses": [{"name": "vllm", "state": server}],
        },
    }  # fmt: skip


NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


def test_an_image_of_the_server_that_cannot_be_pulled_is_told_as_its_own():
    pod = trim_pod(waiting_pod({"waiting": {"reason": "ImagePullBackOff", "message": "no such"}}))
    cause = cause_of_waiting(pod, NOW)
    assert cause is not None
    assert cause.failure_class is FailureClass.IMAGE_ERROR
    assert "no such" in cause.message
    assert "vllmImage" in cause.message


def test_a_stage_whose_server_is_not_made_for_long_is_looked_into():
    assert is_stuck(trim_pod(waiting_pod({"waiting": {"reason": "PodInitializing"}})), NOW)


def test_no_events_are_read_of_a_stage_whose_server_runs():
    runs = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    assert not is_stuck(trim_pod(waiting_pod(runs)), NOW)


@pytest.mark.parametrize(
    "reason", ["CreateContainerError", "RunContainerError", "CrashLoopBackOff"]
)
def test_a_server_whose_image_cannot_run_it_has_a_deadline_like_one_that_cannot_be_pulled(reason):
    fails = {"waiting": {"reason": reason, "message": 'exec: "sh": not found'}}
    cause = cause_of_waiting(trim_pod(waiting_pod(fails)), NOW)
    assert cause is not None
    assert (cause.failure_class, cause.reason) == (FailureClass.IMAGE_ERROR, reason)
    assert 'exec: "sh": not found' in cause.message
    assert "vllmImage" in cause.message


def test_a_server_that_crashes_again_and_again_has_a_log_to_read():
    crashes = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting"}}
    cause = cause_of_waiting(trim_pod(waiting_pod(crashes)), NOW)
    assert cause is not None
    assert "logs p -c vllm" in cause.message


def test_settings_of_a_server_that_cannot_be_read_are_no_fault_of_its_image():
    fails = {"waiting": {"reason": "CreateContainerConfigError", "message": "no secret"}}
    cause = cause_of_waiting(trim_pod(waiting_pod(fails)), NOW)
    assert cause is not None
    assert cause.failure_class is FailureClass.USER_ERROR
    assert "vllmImage" not in cause.message


FAKE = """\
#!/bin/sh
printf '%s\\n' "$@" > given
echo serving
trap 'echo leaving; exit 0' TERM
while [ ! -e die ]; do sleep 0.05; done
echo dying >&2
exit 3
"""


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the container's command with a server that writes down what it is given."""
    env = {"PATH": put_program(folder, "vllm", FAKE), "FINETUNE_ENGINE_DIR": str(folder)}
    with run_sidecar(SERVE, "serve", *arguments, env=env) as process:
        yield process


def test_the_container_waits_for_its_arguments_takes_them_whole_and_ends_with_its_pod(tmp_path):
    with serving(tmp_path, "--last", "two words") as process:
        words = ["a  folder", "--model", '{"name": "x", "path": "/a\\\\b $HOME `id`"}', "-n", ""]
        assert not (tmp_path / "started").exists()
        (tmp_path / "draft").write_text("".join(f"{word}\n" for word in words))
        (tmp_path / "draft").rename(tmp_path / "arguments")
        log = tmp_path / "vllm.log"
        eventually(lambda: log.read_text() == "serving\n")
        given = (tmp_path / "given").read_text().split("\n")[:-1]
        assert given == ["serve", *words, "--last", "two words"]
        process.terminate()
        assert process.wait(10) == 0
        assert "leaving" in log.read_text()
        assert not (tmp_path / "ended").exists()


def test_a_container_that_waits_ends_with_its_pod(tmp_path):
    with serving(tmp_path) as process:
        eventually(lambda: process.poll() is None and _has_trap(process.pid))
        process.terminate()
        assert process.wait(10) == 0


def test_a_server_that_dies_is_told_and_not_begun_again(tmp_path):
    (tmp_path / "arguments").write_text("--model\n")
    with serving(tmp_path) as process:
        eventually((tmp_path / "given").exists)
        (tmp_path / "die").touch()
        eventually((tmp_path / "ended").exists)
        eventually(lambda: "dying" in (tmp_path / "vllm.log").read_text())
        assert process.poll() is None, "a container that ends would be started anew"
        process.terminate()
        assert process.wait(10) == 0


def test_a_container_that_was_killed_says_so_when_it_is_started_anew(tmp_path):
    (tmp_path / "arguments").write_text("--model\n")
    (tmp_path / "started").touch()
    with serving(tmp_path) as process:
        eventually((tmp_path / "ended").exists)
        assert not (tmp_path / "given").exists()
        process.terminate()
        assert process.wait(10) == 0


def _has_trap(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << signal.SIGTERM - 1)
