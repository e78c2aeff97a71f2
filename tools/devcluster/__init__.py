"""A real Kubernetes on one Linux host, built from pinned Go modules.

Two profiles:

* ``control-plane``: etcd, kube-apiserver and kube-controller-manager on loopback, ready in
  seconds, as many side by side as a test suite asks for. No root needed.
* ``node``: everything from certificates to a kubelet that runs pods, one per host, as root.

What is imported here is what others may use: tests reach no module below.
``python -m devcluster up|down|status|load`` is the command line. ``README.md`` in this folder is
the how-to.
"""

from devcluster.control_plane.certificates import (
    create_control_plane_certificates,
    write_certificates,
)
from devcluster.control_plane.controlplane import ControlPlane, ControlPlaneOptions
from devcluster.errors import DevclusterError
from devcluster.existing import ExistingCluster, use_existing_cluster
from devcluster.host import go_program, run, unfit_for_control_plane, unfit_for_node
from devcluster.kueue.beside import start_kueue
from devcluster.kueue.install import install_kueue
from devcluster.node.images import (
    ensure_base_image,
    load_images,
    load_variant,
    pull_image,
    push_image,
)
from devcluster.node.node import Node, NodeOptions
from devcluster.node.runtime import runtime_of
from devcluster.paths import cluster_dir
from devcluster.ports import FIRST_PORT, LAST_PORT
from devcluster.process import start_ticks
from devcluster.programs.binaries import ensure_built, module_folder, program
from devcluster.starting import start_control_plane, start_node
from devcluster.state import load_state
from devcluster.teardown import remove_cluster

__all__ = [
    "FIRST_PORT", "LAST_PORT", "ControlPlane", "ControlPlaneOptions", "DevclusterError",
    "ExistingCluster", "Node", "NodeOptions", "cluster_dir", "create_control_plane_certificates",
    "ensure_base_image", "ensure_built", "go_program", "install_kueue", "load_images", "load_state",
    "load_variant", "module_folder", "program", "pull_image", "push_image", "remove_cluster",
    "run", "runtime_of", "start_control_plane", "start_kueue", "start_node", "start_ticks",
    "unfit_for_control_plane", "unfit_for_node",
    "use_existing_cluster", "write_certificates",
]  # fmt: skip
