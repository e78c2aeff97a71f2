"""The operator as the chart runs it: its service account, its roles, its configuration file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.cluster.chart import CHART, IMAGES, install_crd, render_chart
from kit.processes.eventually import eventually
from kit.servers.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("helm")]
ROOT = CHART.parent.parent


class ChartOperator:
    """One replica with the rights and settings of a release, and the log it writes."""

    def __init__(self, cluster: Any, folder: Path, *, release: str, namespaces: list[str]) -> None:
        self.cluster = cluster
        self.log = folder / "operator.log"
        self.progress_port = free_port()
        self.namespace = release
        values = f"watch.namespaces={json.dumps(namespaces)}"
        objects = render_chart([IMAGES, "--set-json", values], release=release, namespace=release)
        self.name = next(o["metadata"]["name"] for o in objects if o["kind"] == "Deployment")
        kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
        rights = [o for o in objects if o["kind"] in kinds]
        cluster.kubectl("create", "namespace", release)
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(rights))
        config = next(o for o in objects if o["kind"] == "ConfigMap")["data"]["config.yaml"]
        (folder / "config.yaml").write_text(config)
        self._process = self._start(folder)

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        token = self.cluster.kubectl("-n", self.namespace, "create", "token", self.name).strip()
        kubeconfig = yaml.safe_load(Path(self.cluster.kubeconfig).read_text())
        kubeconfig["users"][0]["user"] = {"token": token}
        (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        ports = {"progressPort": self.progress_port, "probePort": 0, "metricsPort": 0}
        settings = [f"--set={key}={value}" for key, value in ports.items()]
        command = [sys.executable, "-m", "finetune_operator", f"--config={folder / 'config.yaml'}"]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*command, "--set=bindAddress=127.0.0.1", *settings],
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT / "operator"),
                    "KUBECONFIG": str(folder / "kubeconfig"),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def push_with_bad_token(self, namespace: str) -> int:
        """Return the answer to a report whose token is not one; 0 while nobody listens."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.progress_port}/progress/{namespace}/job/prepare",
            data=b'{"trainerStatus": {}}',
            headers={"Authorization": "Bearer no-token", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except urllib.error.URLError:
            return 0


def make_job(name: str, **spec: Any) -> str:
    return json.dumps(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name},
            "spec": {
                "model": {"uri": "hf://org/model"},
                "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
                "output": {"uri": "s3://models"},
                **spec,
            },
        }
    )


@pytest.fixture(params=["cluster-wide", "namespaced"])
def operator(
    request: pytest.FixtureRequest, control_plane: Any, namespace: str, tmp_path: Path
) -> Iterator[ChartOperator]:
    install_crd(control_plane)
    namespaces = [namespace] if request.param == "namespaced" else []
    release = f"release-{namespace.removeprefix('test-')}"
    running = ChartOperator(control_plane, tmp_path, release=release, namespaces=namespaces)
    try:
        yield running
    finally:
        running.stop()
        control_plane.kubectl("delete", "namespace", release, "--wait=false")
        for kind in ("clusterrole", "clusterrolebinding"):
            control_plane.kubectl("delete", kind, "-l", f"app.kubernetes.io/instance={release}")


def test_rights_suffice_for_the_life_of_a_job(
    operator: ChartOperator, control_plane: Any, namespace: str
) -> None:
    def kubectl(*arguments: str, stdin: str | None = None) -> str:
        return str(control_plane.kubectl("-n", namespace, *arguments, stdin=stdin))

    def names(kind: str) -> set[str]:
        return set(kubectl("get", kind, "-o", "name").split())

    kubectl("apply", "-f", "-", stdin=make_job("trained"))
    eventually(lambda: "job.batch/trained-prepare" in names("jobs"), timeout=60)
    assert "configmap/trained-job" in names("configmaps")

    accepted = '{.status.conditions[?(@.type=="Accepted")].status}'
    eventually(
        lambda: kubectl("get", "finetunejob", "trained", f"-o=jsonpath={accepted}") == "True",
        timeout=20,
    )

    kubectl("patch", "finetunejob", "trained", "--type=merge", '-p={"spec":{"suspend":true}}')
    suspended = "-o=jsonpath={.spec.suspend}"
    eventually(lambda: kubectl("get", "job", "trained-prepare", suspended) == "true", timeout=20)

    # Refused by this cluster's settings: ended, and so deleted as soon as its time is over.
    elsewhere = {"endpoint": "https://s3.example.org"}
    kubectl("apply", "-f", "-", stdin=make_job("refused", s3=elsewhere))
    phase = "-o=jsonpath={.status.phase}"
    eventually(lambda: kubectl("get", "finetunejob", "refused", phase) == "Failed", timeout=30)
    expire = '-p={"spec":{"ttlSecondsAfterFinished":0}}'
    kubectl("patch", "finetunejob", "refused", "--type=merge", expire)
    eventually(lambda: "finetunejob.finetune.dev/refused" not in names("finetunejobs"), timeout=30)

    reasons = "-o=jsonpath={.items[*].reason}"
    eventually(lambda: "Accepted" in kubectl("get", "events", reasons).split(), timeout=20)

    # 401 is the API server's verdict on the token; without the right to ask it would be a 5xx.
    eventually(lambda: operator.push_with_bad_token(namespace) == 401, timeout=20)

    assert operator.stop() == 0
    log = operator.log.read_text()
    assert "orbidden" not in log, log
    # Given back on a graceful stop: a standby takes over at once.
    holder = control_plane.kubectl(
        *("-n", operator.namespace, "get", "lease", operator.name),
        "-o=jsonpath={.spec.holderIdentity}",
    )
    assert holder == ""
