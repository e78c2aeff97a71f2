"""Versions in a tenant's storage: read, made on this machine, and forged.

Whoever has the key of a bucket can forge one whose files and manifest agree. So only what it
answers can tell.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import Environment, ResolvedJob, local_uid, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.storage import (
    Manifest,
    ObjectStore,
    hash_file,
    make_manifest,
    open_store,
    read_manifest,
)
from kit.processes.installation import Body, Tenant
from kit.processes.stages import Workbench

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Versions:
    """The versions of a job of a tenant."""

    tenant: Tenant
    job: str

    @property
    def store(self) -> ObjectStore:
        """The tenant's output."""
        return open_store(f"s3://{self.tenant.bucket}/out", self.tenant.access)

    def prefix(self, number: int) -> str:
        """Return the place of a version."""
        return f"versions/{self.tenant.namespace}/{self.job}/{number}"

    def read(self, number: int) -> Manifest:
        """Return the manifest of a version."""
        return read_manifest(self.store, self.prefix(number))

    def read_weights(self, number: int) -> bytes:
        """Return the weights of a version."""
        file = self.read(number).file(WEIGHTS)
        assert file is not None
        return self.store.read_bytes(file.object_key)

    def forge(self, number: int, *, of: int, weights: bytes, folder: Path) -> None:
        """Publish a version with other weights.

        Args:
            number: Its number.
            of: The version whose other files and evaluation it takes.
            weights: Its weights.
            folder: Where to put them on the way.
        """
        store, manifest = self.store, self.read(of)
        key = f"{manifest.inputs['run']}/forged-{number}/{WEIGHTS}"
        path = folder / f"{number}-{WEIGHTS}"
        path.write_bytes(weights)
        store.upload_file(path, key)
        num_bytes, sha256 = hash_file(path)
        files = [
            replace(file, num_bytes=num_bytes, sha256=sha256, key=key)
            if file.path == WEIGHTS
            else file
            for file in manifest.files
        ]
        self._write(number, replace(manifest, files=tuple(files)))

    def evaluated(self, number: int) -> list[tuple[str, str]]:
        """Return the held-out questions of a version with its stored answers."""
        run = self.read(number).inputs["run"]
        samples = self.store.read_bytes(f"{run}/evaluation/samples.jsonl").decode()
        rows = [json.loads(line) for line in samples.splitlines()]
        return [(row["prompt"][-1]["content"], row["tuned"]) for row in rows]

    def _write(self, number: int, manifest: Manifest) -> None:
        signed = make_manifest(
            manifest.files, created_by=manifest.created_by, inputs=manifest.inputs
        )
        key = f"{self.prefix(number)}/manifest.json"
        self.store.write_bytes(key, signed.to_bytes(), if_absent=True)


def change_tensors(weights: bytes, change: Callable[[str, Any], tuple[str, Any]]) -> bytes:
    """Return weights after a change of each tensor, which returns its name and the tensor."""
    from safetensors.torch import load, save

    return save(dict(change(name, tensor) for name, tensor in load(weights).items()))


@dataclass(kw_only=True)
class Laptop(Workbench):
    """The stages of a tenant's job on this machine: its version lands in the tenant's bucket."""

    tenant: Tenant
    name: str

    def spec(self) -> Body:
        """Return the spec with the tenant's storage."""
        spec: Body = self.tenant.document(self.name, super().spec(), self.change)["spec"]
        return spec

    def job(self) -> ResolvedJob:
        """Return the job as ``finetune run`` would resolve it."""
        wire = {"metadata": {"name": self.name}, "spec": self.spec()}
        job = FineTuneJob.from_wire(wire)
        namespace = self.tenant.namespace
        return resolve_job(job, namespace=namespace, uid=local_uid(job, namespace=namespace))

    @property
    def versions(self) -> Versions:
        """The versions of the job."""
        return Versions(tenant=self.tenant, job=self.name)

    def start(self, stage: str) -> subprocess.Popen[str]:
        """Start a stage with the tenant's credentials."""
        self.env[Environment.CREDENTIALS_DIR] = str(self.tenant.credentials)
        return super().start(stage)
