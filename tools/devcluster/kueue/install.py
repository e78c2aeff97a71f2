"""Kueue from its own manifests.

The binary is built from the pinned module, wrapped into an image of one file, and deployed by
Kueue's own kustomization, taken from the module in Go's cache. Nothing of Kueue is in the
repository.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from devcluster.control_plane.apiclient import wait_until
from devcluster.control_plane.controlplane import ControlPlane
from devcluster.errors import CommandError, StartError
from devcluster.node.node import Node
from devcluster.node.runtime import runtime_of
from devcluster.paths import modules_root
from devcluster.programs import archive
from devcluster.programs.binaries import ensure_built, module_folder, pinned_version
from devcluster.progress import say, step

MODULE = "sigs.k8s.io/kueue"
NAMESPACE = "kueue-system"
DEPLOYMENT = "kueue-controller-manager"
USER = "65532:65532"  # numeric: under runAsNonRoot the kubelet cannot check a name
# Where the distroless image has the program, and the deployment starts it.
_PROGRAM = "manager"
CPU_REQUEST = "50m"

Body = dict[str, Any]


def kueue_version() -> str:
    """The pinned version."""
    return pinned_version((modules_root() / "kueue" / "go.mod").read_text(), MODULE)


def install_kueue(node: Node) -> None:
    """Install Kueue and wait until its webhooks answer; nothing happens if it runs already.

    Raises:
        DevclusterError: it could not be built or does not start.
    """
    if node.state.values.get("kueue") == kueue_version():
        say(f"Kueue {kueue_version()} is installed already")
        return
    folder = ensure_built("kueue")
    reference = f"finetune-devcluster.invalid/kueue:{kueue_version()}-{folder.name[-8:]}"
    runtime = runtime_of(node.name)
    with step(f"Kueue {kueue_version()}"):
        if reference not in runtime.ctr("images", "list", "--quiet"):
            image = node.folder / "kueue.tar"
            archive.write_image(
                image,
                reference,
                files={_PROGRAM: folder / "kueue"},
                entrypoint=[f"/{_PROGRAM}"],
                user=USER,
            )
            runtime.ctr("images", "import", str(image))
            image.unlink()
        manifests = render_manifests(node, reference)
        node.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifests)
        wait_until("Kueue to be available", lambda: is_available(node))
        wait_until("Kueue's webhooks", lambda: webhooks_answer(node), poll_seconds=0.3)
    node.state.values["kueue"] = kueue_version()
    node.save()


def render_manifests(node: Node, reference: str) -> str:
    """Kueue's default kustomization as it runs on this node, as a JSON list."""
    folder = module_folder("kueue", MODULE) / "config" / "default"
    text = node.kubectl("kustomize", str(folder))
    documents = [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]
    place_manager(documents, reference)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})


def place_manager(documents: list[Body], reference: str) -> None:
    """Let the manager run from an image that is on the node already, beside others.

    It asks for a quarter of a small host's processor, needs a tenth of that here, and would leave
    the pods that it queues no room.

    Raises:
        StartError: there is not exactly one container: Kueue's manifests have changed.
    """
    containers = [
        container
        for document in documents
        if document["kind"] == "Deployment"
        for container in document["spec"]["template"]["spec"]["containers"]
    ]
    if len(containers) != 1:
        raise StartError(f"expected one container in Kueue's manifests, found {len(containers)}")
    containers[0] |= {"image": reference, "imagePullPolicy": "IfNotPresent"}
    containers[0]["resources"]["requests"]["cpu"] = CPU_REQUEST


def is_available(node: Node) -> bool:
    """Whether Kueue's deployment has its replica."""
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{DEPLOYMENT}"
    status, raw = node.client().send("GET", path)
    return status == 200 and json.loads(raw).get("status", {}).get("availableReplicas", 0) > 0


def webhooks_answer(cluster: ControlPlane) -> bool:
    """Whether a Kueue object could be created: its webhooks make their own certificates first."""
    probe = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ResourceFlavor",
        "metadata": {"name": "probe"},
    }
    try:
        cluster.client().call(
            "POST", "/apis/kueue.x-k8s.io/v1beta2/resourceflavors?dryRun=All", probe
        )
    except CommandError:
        return False
    return True
