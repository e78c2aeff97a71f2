"""The project's images as pods get them."""

from __future__ import annotations

import json
import secrets

import pytest

from kit.processes.eventually import eventually

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("image", "module"), [("operator", "finetune_operator"), ("trainer", "finetune_trainer")]
)
def test_a_pod_of_each_image_runs_without_root_on_a_read_only_disk(
    node_cluster, project_images, image, module
):
    name = f"image-{image}-{secrets.token_hex(2)}"
    container = {
        "name": "main",
        "image": project_images[image],
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", f"import os, {module}; print('uid', os.getuid())"],
        "securityContext": {
            "runAsNonRoot": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    node_cluster.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    try:

        def phase() -> str:
            return node_cluster.kubectl("get", "pod", name, "-o", "jsonpath={.status.phase}")

        eventually(lambda: phase() in ("Succeeded", "Failed"), timeout=120, interval=0.5)
        assert "uid 65532" in node_cluster.kubectl("logs", name)
    finally:
        node_cluster.kubectl("delete", "pod", name, "--wait=false")
