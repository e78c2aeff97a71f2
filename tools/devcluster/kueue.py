"""Kueue from its own manifests, on request.

The binary is built from the pinned module, wrapped into an image of one file, and deployed by
Kueue's own kustomization, taken from the module in Go's cache. Nothing of Kueue is in the
repository.
"""

from __future__ import annotations

import json
import re

from devcluster import archive
from devcluster.apiclient import wait_until
from devcluster.binaries import ensure_built, module_folder, pinned_version
from devcluster.controlplane import ControlPlane
from devcluster.errors import CommandError, StartError
from devcluster.node import Node
from devcluster.node.runtime import runtime_of
from devcluster.paths import modules_root
from devcluster.progress import say, step

MODULE = "sigs.k8s.io/kueue"
NAMESPACE = "kueue-system"
DEPLOYMENT = "kueue-controller-manager"
USER = "65532:65532"  # numeric: under runAsNonRoot the kubelet cannot check a name
# Where the distroless image has the program, and the deployment starts it.
_PROGRAM = "manager"


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
        wait_until("Kueue to be available", lambda: is_available(node), timeout_seconds=120)
        wait_until(
            "Kueue's webhooks", lambda: webhooks_answer(node), timeout_seconds=60, poll_seconds=0.3
        )
    node.state.values["kueue"] = kueue_version()
    node.save()


def render_manifests(node: Node, reference: str) -> str:
    """Kueue's default kustomization with the image replaced, as YAML text."""
    folder = module_folder("kueue", MODULE) / "config" / "default"
    return with_image(node.kubectl("kustomize", str(folder)), reference)


def with_image(manifests: str, reference: str) -> str:
    """The manifests with their one image replaced by one that is on the node already.

    Raises:
        StartError: there is not exactly one image: Kueue's manifests have changed.
    """
    replaced, num_images = re.subn(r"(?m)^(\s*)image: \S+$", rf"\1image: {reference}", manifests)
    if num_images != 1:
        raise StartError(f"expected one image in Kueue's manifests, found {num_images}")
    return replaced.replace("imagePullPolicy: Always", "imagePullPolicy: IfNotPresent")


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
