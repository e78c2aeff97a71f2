"""The command line as its users have it: the console script, a kubeconfig, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from finetune_cli.local.verify import make_access
from finetune_cli.reports.reviews import Source, open_review
from kit.cluster.devcluster import Node, program
from kit.processes.eventually import eventually, patient
from kit.processes.installation import JOB_TIMEOUT_SECONDS, RESUMED, Body, Job, Tenant, is_training
from kit.reports.reviews import verdicts_of

pytestmark = pytest.mark.slow

NAME = "by-hand"
OBJECT = f"finetunejob.finetune.dev/{NAME}"
SCRIPTS = Path(sys.executable).parent
INTERRUPTED = {"hyperparameters": {"maxSteps": 300}, "checkpoint": {"everySteps": 20}}


@dataclass(frozen=True, kw_only=True)
class Shell:
    """A user's shell: a kubeconfig whose current context is another cluster, S3 keys, a PATH."""

    folder: Path
    tenant: Tenant
    context: str
    environment: dict[str, str]

    @classmethod
    def create(cls, folder: Path, tenant: Tenant, node: Node) -> Shell:
        config = yaml.safe_load(node.kubeconfig.read_text())
        elsewhere = {"server": "https://127.0.0.1:9"}
        config["clusters"].append({"name": "elsewhere", "cluster": elsewhere})
        right, user = config["current-context"], config["users"][0]["name"]
        context = {"cluster": "elsewhere", "user": user}
        config["contexts"].append({"name": "elsewhere", "context": context})
        config["current-context"] = "elsewhere"
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        path = [str(SCRIPTS), str(program("kubectl").parent), os.environ["PATH"]]
        environment = {
            **os.environ,
            **{key: tenant.access.read_credential(key) for key in keys},
            "KUBECONFIG": str(folder / "kubeconfig"),
            "PATH": os.pathsep.join(path),
        }
        return cls(folder=folder, tenant=tenant, context=right, environment=environment)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start ``finetune ...`` or ``kubectl finetune ...`` on the tenant's namespace."""
        where = ("--context", self.context, "-n", self.tenant.namespace)
        return subprocess.Popen(
            [*command, *where],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str) -> str:
        """Run a command that must succeed; returns what it printed."""
        with self.start(*command) as process:
            out, err = process.communicate(timeout=patient(JOB_TIMEOUT_SECONDS))
        assert process.returncode == 0, f"{' '.join(command)}: {err}{out}"
        return out


@pytest.fixture(scope="module")
def shell(
    team_a: Tenant, node_cluster: Node, spec: Body, tmp_path_factory: pytest.TempPathFactory
) -> Shell:
    folder = tmp_path_factory.mktemp("home")
    body = team_a.document(NAME, spec, INTERRUPTED)
    del body["metadata"]["namespace"]  # -n says it
    (folder / "job.yaml").write_text(json.dumps(body))
    return Shell.create(folder, team_a, node_cluster)


def test_a_job_is_led_from_submit_to_the_adapter_on_disk(shell: Shell) -> None:
    job = Job(tenant=shell.tenant, name=NAME)
    assert shell.run("finetune", "submit", "job.yaml", "--dry-run", "-o", "name") == f"{OBJECT}\n"
    assert shell.run("finetune", "submit", "job.yaml") == f"{OBJECT} created\n"
    follower = shell.start("finetune", "logs", "-f", NAME)
    job.wait(is_training)
    shown = shell.run("finetune", "status", NAME)
    assert "31 training, 5 validation and 12 held-out rows; 0 left out, 0 truncated." in shown
    assert re.search(r"\d+/300", shown)

    patch = ("kubectl", "patch", "ftj", NAME, "--type", "merge", "-p")
    shell.run(*patch, '{"spec":{"suspend":true}}')
    eventually(lambda: not job.running_pods(), timeout=90, interval=0.5)
    assert "SuspendedByUser" in shell.run("kubectl", "get", "ftj", NAME, "-o", "wide")
    shell.run(*patch, '{"spec":{"suspend":false}}')

    ending = shell.run("finetune", "submit", "job.yaml", "--wait").splitlines()
    assert ending[-2:] == ["Succeeded", ending[-1]]
    assert ending[-1].startswith(f"{OBJECT}: Complete=True, Succeeded, Version 1: exactMatch")
    out, err = follower.communicate(timeout=patient(60))  # ends by itself
    assert follower.returncode == 0, err
    assert RESUMED.search(out)
    told = [line.split(":")[0] for line in out.splitlines()]
    assert list(dict.fromkeys(told)) == ["prepare", "train", "evaluate"]
    assert '{"' not in out
    assert "failed" not in out
    assert out.splitlines()[-1] == "evaluate: done"
    assert f"{NAME}: Complete=True, Succeeded, Version 1" in err

    described = shell.run("finetune", "status", NAME)
    for title in ("Progress", "Conditions", "Data set", "Evaluation", "Adapter", "Events"):
        assert f"\n{title}:\n" in described
    stored = json.loads(shell.run("finetune", "status", NAME, "-o", "json"))
    assert stored["status"]["phase"] == "Succeeded"
    assert stored["status"]["attempts"]["counted"] == 0
    assert yaml.safe_load(shell.run("finetune", "status", NAME, "-o", "yaml")) == stored

    copied = shell.run("finetune", "cp", NAME, "adapter")
    assert copied.startswith("copied and verified")
    weights = (shell.folder / "adapter" / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == stored["status"]["artifact"]["sha256"]


def test_it_is_a_plugin_of_kubectl(shell: Shell) -> None:
    shell.run("finetune", "submit", "job.yaml")
    assert shell.run("kubectl", "finetune", "status", NAME, "-o", "name") == f"{OBJECT}\n"
    shell.run("kubectl", "delete", "ftj", NAME)
    with shell.start("finetune", "status", NAME) as process:
        _, err = process.communicate(timeout=patient(60))
    assert process.returncode == 64
    assert f'"{NAME}" not found' in err


def test_a_candidate_waits_for_its_reviewers_and_is_published_by_their_result(
    shell: Shell, spec: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "reviewed"
    review = {"review": {"required": True, "sample": 6, "rubric": ["voice", "accuracy"]}}
    body = shell.tenant.document(name, spec, {"evaluation": review})
    del body["metadata"]["namespace"]
    (shell.folder / "reviewed.json").write_text(json.dumps(body))
    shell.run("finetune", "submit", "reviewed.json")
    job = Job(tenant=shell.tenant, name=name)
    status = job.wait(lambda s: s.get("phase") in ("AwaitingApproval", "Succeeded", "Failed"))
    assert status["phase"] == "AwaitingApproval", job.report()
    assert "version" not in status["artifact"]
    eventually(lambda: not job.running_pods(), timeout=60, interval=1)

    endpoint = shell.tenant.access.endpoint
    page = Path(shell.run("finetune", "review", "open", name, "--endpoint", str(endpoint)).strip())
    assert "tiny/llama" not in page.read_text()
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, shell.environment[key])
    uri = status["evaluation"]["reportUri"].rpartition("/")[0]
    opened = open_review(Source(uri=uri, access=make_access(endpoint, None)))
    files = []
    for reviewer in ("Rita", "Sam"):
        files.append(f"{reviewer}.json")
        verdicts = verdicts_of(reviewer, opened.blind, opened.key)
        (shell.folder / files[-1]).write_text(verdicts.to_json())
    submit = ("finetune", "review", "submit", name, *files, "--endpoint", str(endpoint), "--yes")
    assert "1.0000" in shell.run(*submit)
    status = job.wait_published()
    assert status["artifact"]["version"] == 1
    assert status["publication"]["panel"]
    assert "2 reviewer(s)" in status["publication"]["reason"]
