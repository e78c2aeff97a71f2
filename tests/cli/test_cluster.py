"""The cluster's commands against a real API server; the test plays the operator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_trainer.storage import StorageAccess, open_store, publish_folder
from kit.cases.spec_cases import changed, minimal_job
from kit.cluster.crd import install_crd
from kit.cluster.raw_api import MERGE, RawApi
from kit.processes.cli import Cli, Finished

JOB = "finetunejob.finetune.dev/example"
NOW = "2026-01-01T00:00:00Z"


def held(kind: str, reason: str, message: str = "") -> dict[str, str]:
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": NOW,
    }


class Stage:
    """A namespace, the CLI pointed at it, and the operator's pen."""

    def __init__(self, api: RawApi, namespace: str, cli: Cli, cluster: Any) -> None:
        self.api, self.namespace, self.cli, self.cluster = api, namespace, cli, cluster
        self.write(minimal_job())

    @property
    def options(self) -> tuple[str, ...]:
        return ("-n", self.namespace, "--kubeconfig", str(self.cluster.kubeconfig))

    def run(self, command: str, *arguments: str) -> Finished:
        return self.cli(command, *arguments, *self.options)

    def apply(self) -> None:
        """Send the job as kubectl does."""
        path = self.cli.folder / "job.yaml"
        self.cluster.kubectl("apply", "-n", self.namespace, "-f", str(path))

    def write(self, body: dict[str, Any]) -> None:
        (self.cli.folder / "job.yaml").write_text(yaml.safe_dump(body))

    def report(self, **status: Any) -> None:
        path = f"/apis/finetune.dev/v1alpha1/namespaces/{self.namespace}/finetunejobs/example"
        code, answer = self.api.send(
            "PATCH", f"{path}/status", {"status": status}, content_type=MERGE
        )
        assert code == 200, answer


@pytest.fixture
def stage(control_plane: Any, namespace: str, tmp_path: Path) -> Iterator[Stage]:
    api = RawApi(control_plane.kubeconfig)
    install_crd(api)
    cli = Cli(tmp_path, use_fake_trainer=False)
    yield Stage(api, namespace, cli, control_plane)
    api.close()


def test_submit_creates_once_and_changes_what_may_change(stage: Stage) -> None:
    assert stage.run("submit", "job.yaml", "--dry-run").out == f"{JOB} created (dry run)\n"
    assert stage.run("status", "example").code == 64
    assert stage.run("submit", "job.yaml").out == f"{JOB} created\n"
    assert stage.run("submit", "job.yaml").out == f"{JOB} unchanged\n"
    stage.write(changed(minimal_job(), {"spec.backoffLimit": 1}))
    assert stage.run("submit", "job.yaml", "-o", "name").out == f"{JOB}\n"
    stored = json.loads(stage.run("status", "example", "-o", "json").out)
    assert stored["spec"]["backoffLimit"] == 1
    assert "managedFields" not in stored["metadata"]


def test_submit_tells_why_a_change_is_refused(stage: Stage) -> None:
    stage.run("submit", "job.yaml")
    stage.write(changed(minimal_job(), {"spec.model.uri": "hf://other/model"}))
    done = stage.run("submit", "job.yaml")
    assert done.code == 64
    assert "model is fixed" in done.err


def test_submit_takes_over_from_kubectl_only_when_told(stage: Stage) -> None:
    stage.apply()
    # A list is one field: with the server's defaults in it, it is not the file's any more.
    done = stage.run("submit", "job.yaml")
    assert "  .spec.dataset.sources  (set by kubectl-client-side-apply" in done.err
    stage.write(changed(minimal_job(), {"spec.backoffLimit": 1}))
    stage.apply()
    stage.write(changed(minimal_job(), {"spec.backoffLimit": 2}))
    done = stage.run("submit", "job.yaml")
    assert (done.code, done.out) == (64, "")
    assert "  .spec.backoffLimit  (set by kubectl-client-side-apply, which is kubectl apply)" in (
        done.err
    )
    assert "finetune submit --force-conflicts" in done.err
    assert stage.run("submit", "job.yaml", "--force-conflicts").out == f"{JOB} configured\n"
    stored = json.loads(stage.run("status", "example", "-o", "json").out)
    assert stored["spec"]["backoffLimit"] == 2
    stage.write(changed(minimal_job(), {"spec.backoffLimit": 3}))
    assert stage.run("submit", "job.yaml").out == f"{JOB} configured\n"  # now it is the owner


def test_submit_refuses_files_of_this_machine(stage: Stage) -> None:
    stage.write(changed(minimal_job(), {"spec.dataset.sources.0.uri": "file://./data.jsonl"}))
    done = stage.run("submit", "job.yaml")
    assert done.code == 64
    assert "file://./data.jsonl lies on this machine" in done.err


def test_status_shows_progress_and_failure(stage: Stage) -> None:
    stage.write(changed(minimal_job(), {"spec.queueName": "team-a"}))
    stage.run("submit", "job.yaml")
    stage.report(
        phase="Training",
        reason="WaitingForPods",
        conditions=[held("Accepted", "Valid", "the job can run")],
        progress={"stage": "train", "step": 120, "totalSteps": 600, "percent": 20},
        metrics=[{"name": "loss", "value": "1.23"}],
        lastFailure={"class": "Evicted", "reason": "Preempted", "message": "node drained"},
    )
    described = stage.run("status", "example").out
    for text in ("Phase:", "Training", "120/600", "Accepted", "the job can run", "node drained"):
        assert text in described


def test_submit_waits_for_the_jobs_end(stage: Stage) -> None:
    process = stage.cli.start("submit", "job.yaml", "--wait", *stage.options)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{JOB} created\n"
    assert process.stdout.readline() == "Pending\n"
    stage.report(phase="Training")
    assert process.stdout.readline() == "Training\n"
    stage.report(phase="Succeeded", conditions=[held("Complete", "Succeeded", "published")])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == f"{JOB}: Complete=True, Succeeded, published"


def test_waiting_fails_with_the_job(stage: Stage) -> None:
    stage.run("submit", "job.yaml")
    stage.report(phase="Failed", conditions=[held("Failed", "BucketNotFound", "no such bucket")])
    done = stage.run("submit", "job.yaml", "--wait")
    assert done.code == 1
    assert "Failed=True, BucketNotFound, no such bucket" in done.err


def test_a_job_that_is_not_there_is_told(stage: Stage) -> None:
    done = stage.run("status", "example")
    assert done.code == 64
    assert "cannot read FineTuneJob" in done.err
    assert "not found" in done.err


def test_logs_before_any_pod_say_where_to_look(stage: Stage) -> None:
    stage.run("submit", "job.yaml")
    done = stage.run("logs", "example")
    assert done.code == 64
    assert "finetune status example says why" in done.err


def test_following_logs_tells_what_is_waited_for_and_how_it_ended(stage: Stage) -> None:
    stage.run("submit", "job.yaml")
    process = stage.cli.start("logs", "-f", "example", *stage.options)
    assert process.stderr is not None
    assert process.stderr.readline() == "example: Pending: no operator has looked at it yet\n"
    waits = held("QuotaReserved", "WaitingForQuota", "team-a is full") | {"status": "False"}
    stage.report(phase="Queued", reason="WaitingForQuota", conditions=[waits])
    assert process.stderr.readline() == "example: Queued: team-a is full\n"
    stage.report(phase="Failed", conditions=[held("Failed", "UserError", "no such bucket")])
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert err == "example: Failed=True, UserError, no such bucket\n"


def test_following_the_logs_of_one_stage_ends_with_it(stage: Stage) -> None:
    stage.run("submit", "job.yaml")
    over = {"name": "prepare", "job": "example-prepare", "completionTime": NOW}
    stage.report(phase="Training", stages=[over])
    done = stage.run("logs", "-f", "example", "--stage", "prepare")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_following_the_logs_of_a_deleted_job_ends(stage: Stage) -> None:
    stage.run("submit", "job.yaml")
    process = stage.cli.start("logs", "-f", "example", *stage.options)
    assert process.stderr is not None
    process.stderr.readline()
    stage.cluster.kubectl("delete", "-n", stage.namespace, "ftj", "example")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == "error: FineTuneJob example was deleted\n"


def test_cp_brings_the_adapter_and_checks_it(stage: Stage) -> None:
    stage.run("submit", "job.yaml")
    done = stage.run("cp", "example", "here")
    assert done.code == 64
    assert "has published no adapter; it is Pending" in done.err
    made = stage.cli.folder / "made"
    made.mkdir()
    (made / "adapter_config.json").write_text("{}")
    uri = f"file://{stage.cli.folder}/out"
    publish_folder(open_store(uri, StorageAccess()), "adapter", made, created_by="test")
    stage.report(artifact={"uri": f"{uri}/adapter"})
    done = stage.run("cp", "example", "here")
    assert done.code == 0, done.err
    assert "1 files, 2 bytes" in done.out
    assert (stage.cli.folder / "here" / "adapter_config.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--context", "nowhere"), "cannot use the kubeconfig"),
        (("--kubeconfig", "missing"), "cannot use the kubeconfig"),
    ],
)
def test_bad_kubeconfig_is_explained(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = Cli(tmp_path)("queue", *arguments)
    assert done.code == 64
    assert message in done.err


def test_a_context_is_chosen_by_its_name(tmp_path: Path) -> None:
    cluster = {"name": "far", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "far", "context": {"cluster": "far", "user": "me"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "contexts": [context],
        "clusters": [cluster],
        "users": [{"name": "me", "user": {}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))  # and no current context
    run = Cli(tmp_path)
    done = run("queue", "--kubeconfig", "config", "--context", "far")
    assert "cannot list FineTuneJobs: http://127.0.0.1:9 does not answer" in done.err
    done = run("queue", "--kubeconfig", "config", "--context", "near")
    assert "it has no context near, only far." in done.err
    assert "cannot use the kubeconfig" in run("queue", "--kubeconfig", "config").err


def test_silent_server_is_told(tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "a", "user": {}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    done = Cli(tmp_path)("queue", "--kubeconfig", "config")
    assert done.code == 64
    assert "http://127.0.0.1:9 does not answer" in done.err


def test_retry_writes_a_new_job_that_begins_from_what_the_failed_one_trained(stage: Stage) -> None:
    stage.run("submit", "job.yaml")
    refused = stage.run("retry", "example")
    assert refused.code == 1
    assert "has not failed" in refused.err
    adapter = "s3://models/runs/x/example/u/adapter"
    stage.report(phase="Failed", conditions=[held("Failed", "Internal")], artifact={"uri": adapter})
    printed = stage.run("retry", "example", "--print", "--set", "hyperparameters.epochs=1")
    shown = yaml.safe_load(printed.out)
    assert shown["metadata"]["name"] == "example-2"
    assert shown["spec"]["initFrom"] == {"uri": adapter}
    made = stage.run("retry", "example")
    assert made.out == f"{JOB}-2 created, from {adapter}\n"
    assert stage.run("retry", "example", "--fresh").out == f"{JOB}-3 created, afresh\n"
    again = stage.run("retry", "example", "--name", "example-2")
    assert "there is a FineTuneJob example-2 already" in again.err
    stored = json.loads(stage.run("status", "example-2", "-o", "json").out)
    assert stored["spec"]["initFrom"]["uri"] == adapter
    # What printed the job can send it again, with a field changed.
    edit = {"spec.backoffLimit": 1, "spec.hyperparameters.epochs": "3"}
    stage.write(changed(shown, edit))
    assert stage.run("submit", "job.yaml").out == f"{JOB}-2 configured\n"
