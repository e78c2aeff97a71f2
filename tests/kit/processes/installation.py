"""The operator as its users have it: installed by the chart, used through kubectl and S3."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_cli.local.verify import verify_uri
from finetune_trainer.storage import StorageAccess, open_store
from kit.cluster.chart import CHART, NAMESPACE, find_helm
from kit.cluster.devcluster import DevclusterError, Node
from kit.processes.eventually import eventually, patient
from kit.processes.stages import merge

SECRET = "object-store"
OPERATOR_LABEL = "app.kubernetes.io/name=finetune-operator"
DISK = "512Ki"  # of a pod in a cramped namespace: less than the tiny model
JOB_CPU = "500m"  # three pods fit the smallest host; one thread each
JOB_TIMEOUT_SECONDS = 420.0
POLL_SECONDS = 0.5
ENDED = ("Succeeded", "Failed", "Pruned")
RESUMED = re.compile(r"resuming from the checkpoint of step [1-9]")

Body = dict[str, Any]
Bodies = list[Body]


def install_operator(
    node: Node,
    images: dict[str, str],
    *,
    release: str,
    namespaces: list[str],
    allow_cpu: bool,
    config: Body | None = None,
    kueue: bool = True,
    replicas: int = 2,
    timeout: float = 150.0,
) -> None:
    """Install the chart, or bring an installed one up to date, and wait until it runs.

    Args:
        node: The cluster.
        images: References of the images by name.
        release: Name of the installation.
        namespaces: Those it looks after.
        allow_cpu: Whether jobs may train without a GPU.
        config: Further settings of the operator.
        kueue: Whether it queues jobs through Kueue, which must be there.
        replicas: Pods of the operator.
        timeout: Seconds until they run where nothing else runs.
    """
    values = {
        "image": _image(images["operator"]),
        "trainerImage": _image(images["trainer"]),
        "watch": {"namespaces": namespaces},
        "kueue": {"enabled": kueue},
        "replicas": replicas,
        "config": {
            "allowCpu": allow_cpu,
            "allowedEndpoints": [node.object_store.endpoint],
            "modelDownloads": "Anywhere",
            "prepareCpu": JOB_CPU,
            "prepareMemory": "2Gi",
            "defaultCpu": JOB_CPU,
            "defaultMemory": "3Gi",
            "defaultCpuPerGpu": "0",
            "defaultMemoryPerGpu": "0Gi",
            "defaultSharedMemory": "256Mi",
            "imagePullDeadlineSeconds": 20,
            "progressIntervalSeconds": 1,
            **(config or {}),
        },
    }
    file = node.folder / f"{release}.values.yaml"
    file.write_text(yaml.safe_dump(values))
    helm(
        *(node, "upgrade", release, str(CHART), "--install"),
        *("--namespace", NAMESPACE, "--create-namespace", "--values", str(file)),
        *("--wait", "--timeout", f"{patient(timeout):.0f}s"),
    )


def helm(node: Node, *arguments: str) -> None:
    """Run helm as administrator; its own words are the failure."""
    command = [str(find_helm()), *arguments, "--kubeconfig", str(node.kubeconfig)]
    # Longer than what helm itself waits for, so that it says what is missing.
    limit = patient(165)
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


def _image(reference: str) -> dict[str, str]:
    repository, _, tag = reference.rpartition(":")
    return {"repository": repository, "tag": tag}


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A namespace with a bucket and keys that are good for that bucket only."""

    node: Node
    namespace: str
    bucket: str
    credentials: Path

    @property
    def access(self) -> StorageAccess:
        """How this tenant reaches S3."""
        return StorageAccess(
            endpoint=self.node.object_store.endpoint,
            credentials_dir=self.credentials,
            credentials_name=SECRET,
        )

    @classmethod
    def create(cls, node: Node, namespace: str, bucket: str, folder: Path) -> Tenant:
        """Make the namespace, its Secret and the bucket."""
        key_id, secret = node.object_store.identities[bucket]
        values = {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}
        (folder / SECRET).mkdir(parents=True)
        for key, value in values.items():
            (folder / SECRET / key).write_text(value)
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        apply(
            node,
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": namespace, "labels": labels},
            },
            secret_manifest(namespace, SECRET, values),
        )
        make_bucket(node, bucket)
        return cls(node=node, namespace=namespace, bucket=bucket, credentials=folder)

    def upload(self, path: Path, key: str) -> str:
        """Upload a file or the files of a folder; returns the URI."""
        store = open_store(f"s3://{self.bucket}", self.access)
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            store.upload_file(file, f"{key}/{file.name}" if path.is_dir() else key)
        return f"s3://{self.bucket}/{key}"

    def document(self, name: str, spec: Body, change: Body | None = None) -> Body:
        """Return a FineTuneJob with this tenant's storage."""
        store = self.node.object_store
        own = {
            "model": {"uri": f"s3://{self.bucket}/model", "credentialsRef": {"name": SECRET}},
            "dataset": {
                "sources": [
                    {"uri": f"s3://{self.bucket}/rows.jsonl", "credentialsRef": {"name": SECRET}}
                ]
            },
            "output": {"uri": f"s3://{self.bucket}/out", "credentialsRef": {"name": SECRET}},
            "s3": {"endpoint": store.endpoint},
        }
        return {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": merge(merge(spec, own), change or {}),
        }

    def submit(self, name: str, spec: Body, change: Body | None = None) -> Job:
        """Apply a FineTuneJob with this tenant's storage."""
        apply(self.node, self.document(name, spec, change))
        return Job(tenant=self, name=name)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One FineTuneJob of a tenant."""

    tenant: Tenant
    name: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in the job's namespace."""
        return self.tenant.node.kubectl("-n", self.tenant.namespace, *arguments, stdin=stdin)

    def status(self) -> Body:
        """Return the status as it is now."""
        found: Body = json.loads(self.kubectl("get", "ftj", self.name, "-o", "json"))
        status: Body = found.get("status", {})
        return status

    def condition(self, kind: str) -> Body:
        """Return a condition; empty if it is not there."""
        found = [c for c in self.status().get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    def list(self, kind: str) -> Bodies:
        """Return this job's children of a kind."""
        selector = f"finetune.dev/job={self.name}"
        found: Bodies = json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))["items"]
        return found

    def running_pods(self) -> Bodies:
        """Return the pods that hold resources."""
        return [p for p in self.list("pods") if p["status"]["phase"] in ("Pending", "Running")]

    def logs(self, stage: str) -> str:
        """Return all that a pod of a stage has said."""
        return self.kubectl("logs", f"job/{self.name}-{stage}", "--tail=-1")

    def events(self) -> Bodies:
        """Return the events about the job itself."""
        found = json.loads(self.kubectl("get", "events", "-o", "json"))["items"]
        return [e for e in found if e["involvedObject"].get("name") == self.name]

    def wait(
        self,
        predicate: Callable[[Body], object],
        timeout: float = 300.0,
        *,
        after_end: bool = False,
    ) -> Body:
        """Wait until the status is as asked for; a failure tells all there is to know.

        Args:
            predicate: Looks at a status; a field may be missing.
            timeout: Seconds that it may take where nothing else runs.
            after_end: Go on waiting once the job has ended, which otherwise is a failure.
        """

        def look() -> tuple[Body, bool] | None:
            status = self.status()
            with contextlib.suppress(KeyError):
                if predicate(status):
                    return status, True
            is_over = status.get("phase") in ENDED and not after_end
            return (status, False) if is_over else None

        try:
            status, is_so = eventually(look, timeout, interval=POLL_SECONDS) or ({}, False)
            assert is_so, f"{self.name} ended before: {status.get('phase')}"
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from None
        return status

    def wait_published(self, timeout: float = 300.0) -> Body:
        """Wait for the end, which must be a success."""
        return self.wait(lambda s: s.get("phase") == "Succeeded", timeout)

    def wait_failed(self, timeout: float = 300.0) -> Body:
        """Wait for the end, which must be a failure."""
        return self.wait(lambda s: s.get("phase") == "Failed", timeout)

    def verify(self, status: Body, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        """Check the published version as its owner; return the digests of its files."""
        access = self.tenant.access
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(key, access.read_credential(key))
        verified = verify_uri(status["artifact"]["manifestUri"], endpoint=access.endpoint)
        return {file.path: file.sha256 for file in verified.files}

    def delete(self) -> None:
        """Delete it without waiting, to make room."""
        self.kubectl("delete", "ftj", self.name, "--wait=false")

    def report(self) -> str:
        """Describe the job, its children, their logs and the operator's."""
        selector = f"finetune.dev/job={self.name}"
        parts = []
        for arguments in (
            ("describe", "ftj", self.name),
            ("get", "jobs,pods,services", "-l", selector, "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "-l", selector, "--tail=25", "--prefix", "--ignore-errors"),
            (
                "-n",
                NAMESPACE,
                "logs",
                "-l",
                "app.kubernetes.io/name=finetune-operator",
                "--tail=25",
            ),
        ):
            try:
                output = self.kubectl(*arguments)
            except DevclusterError as error:
                output = str(error)
            parts.append(f"--- kubectl {' '.join(arguments)}\n{output}")
        return "\n".join(parts)


def is_training(status: Body) -> bool:
    """Whether a checkpoint is there, and steps are left."""
    progress = status.get("progress", {})
    return bool(progress.get("stage") == "train" and progress.get("step", 0) >= 25)


def apply(node: Node, *documents: Body) -> None:
    """Apply objects as a user would.

    As JSON: PyYAML leaves the string 1e-2 bare, and kubectl would read a number.
    """
    items = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
    node.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(items))


def secret_manifest(namespace: str, name: str, values: dict[str, str]) -> Body:
    """Return a Secret."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


def limit_disk(tenant: Tenant) -> None:
    """Let an administrator bound what pods of a namespace may write, as clusters do."""
    limit = {"type": "Container", "default": {"ephemeral-storage": DISK}}
    metadata = {"name": "disk", "namespace": tenant.namespace}
    manifest = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": metadata,
        "spec": {"limits": [limit]},
    }
    apply(tenant.node, manifest)


def make_bucket(node: Node, bucket: str) -> None:
    """Create a bucket as the store's administrator, unless it is there."""
    import boto3

    key_id, secret = node.object_store.identities["admin"]
    client = boto3.client(
        "s3",
        endpoint_url=node.object_store.endpoint,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )
    if bucket not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=bucket)
    client.close()
