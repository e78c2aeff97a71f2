"""containerd, runc and the pause image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from devcluster.control_plane.apiclient import wait_until
from devcluster.control_plane.controlplane import ControlPlane
from devcluster.host import run
from devcluster.node.network import CNI_PROGRAMS
from devcluster.paths import cache_root, cluster_dir, socket_root
from devcluster.programs import archive
from devcluster.programs.binaries import module_folder, program

PAUSE_IMAGE = "finetune-devcluster.invalid/pause:1"
_BOOTED = b"containerd successfully booted"
NAMESPACE = "k8s.io"  # containerd's namespace for what the kubelet asks for


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Where containerd keeps things.

    Attributes:
        root: Images; survives ``down``, so that gigabytes are not unpacked twice.
        state: Sockets, shims, network namespaces: short paths, gone after ``down``.
        configuration: Folder of its configuration files.
        process: Name of its process.
    """

    root: Path
    state: Path
    configuration: Path
    process: str = "containerd"

    @property
    def socket(self) -> Path:
        """The socket that the kubelet and ctr talk to."""
        return self.state / "containerd.sock"

    def ctr(self, *arguments: str, check: bool = True) -> str:
        """Run containerd's own client in the kubelet's namespace."""
        command: list[str | Path] = [
            program("ctr"),
            "--address",
            self.socket,
            "--namespace",
            NAMESPACE,
            *arguments,
        ]
        return run(command, check=check).stdout


def runtime_of(name: str) -> Runtime:
    """The runtime of the first node of cluster `name`. One per host: its images are everybody's."""
    cluster, sockets = cluster_dir(name), socket_root(name)
    return Runtime(
        root=cache_root() / "containerd",
        state=sockets / "containerd",
        configuration=cluster / "containerd",
    )


def render_configuration(
    runtime: Runtime, *, runc: Path, cni: Path, snapshotter: str, registry_hosts: Path
) -> str:
    """Containerd's configuration, version 3."""
    return f"""\
version = 3
root = "{runtime.root}"
state = "{runtime.state}"
# NRI would put its socket into /run/nri; nothing here uses it.
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
address = "{runtime.socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{runtime.state}/opt"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "{snapshotter}"
# Large layers from a registry on loopback: the disk is what takes the time.
image_pull_progress_timeout = "10m0s"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "{registry_hosts}"

[plugins."io.containerd.cri.v1.runtime"]
disable_apparmor = true
# Without CAP_SYS_RESOURCE runc cannot lower the score, and dies of it.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{CNI_PROGRAMS}"]
conf_dir = "{cni}"

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
Root = "{runtime.state}/runc"
SystemdCgroup = false
"""


def start_runtime(cluster: ControlPlane, runtime: Runtime, *, cni: Path, registry: str) -> None:
    """Start containerd, clear what a crash left in its database, and give it the pause image."""
    runtime.configuration.mkdir(parents=True, exist_ok=True)
    hosts = runtime.configuration / "hosts"
    write_registry_hosts(hosts, registry)
    configuration = runtime.configuration / "config.toml"
    configuration.write_text(
        render_configuration(
            runtime,
            runc=program("runc"),
            cni=cni,
            snapshotter=choose_snapshotter(runtime.root),
            registry_hosts=hosts,
        )
    )
    _launch(cluster, runtime, configuration)
    if stale := runtime.ctr("containers", "list", "--quiet").split():
        # Left by a crash. The kubelet's view of them is in containerd's memory: start it afresh.
        remove_containers(runtime, stale)
        cluster.stop_process(runtime.process)
        _launch(cluster, runtime, configuration)
    if PAUSE_IMAGE not in runtime.ctr("images", "list", "--quiet"):
        import_pause_image(runtime)


def remove_containers(runtime: Runtime, names: list[str]) -> None:
    """Delete containers and their snapshots from containerd's database."""
    for task in runtime.ctr("tasks", "list", "--quiet", check=False).split():
        runtime.ctr("tasks", "delete", "--force", task, check=False)
    for name in names:
        runtime.ctr("containers", "delete", name, check=False)


def choose_snapshotter(root: Path) -> str:
    """`overlayfs`, or `native` where the cache itself lies on an overlay (inside a container)."""
    root.mkdir(parents=True, exist_ok=True)
    kind = run(["stat", "--file-system", "--format=%T", root]).stdout.strip()
    return "native" if kind == "overlayfs" else "overlayfs"


def write_registry_hosts(folder: Path, registry: str) -> None:
    """Tell containerd that the loopback registry speaks plain HTTP."""
    host = folder / registry
    host.mkdir(parents=True, exist_ok=True)
    (host / "hosts.toml").write_text(
        f'server = "http://{registry}"\n\n'
        f'[host."http://{registry}"]\ncapabilities = ["pull", "resolve"]\n'
    )


def import_pause_image(runtime: Runtime) -> None:
    """Compile Kubernetes' own pause program and import it as an image."""
    source = module_folder("kubernetes-node", "k8s.io/kubernetes") / "build/pause/linux/pause.c"
    binary = runtime.configuration / "pause"
    run(["gcc", "-Os", "-static", "-DVERSION=1", "-o", binary, source])
    image = runtime.configuration / "pause.tar"
    archive.write_image(
        image,
        PAUSE_IMAGE,
        files={"pause": binary},
        entrypoint=["/pause"],
        user="65535:65535",
    )
    runtime.ctr("images", "import", str(image))


def _launch(cluster: ControlPlane, runtime: Runtime, configuration: Path) -> None:
    shims = program("containerd-shim-runc-v2").parent
    log = cluster.folder / "logs" / f"{runtime.process}.log"
    told_before = log.stat().st_size if log.exists() else 0
    process = cluster.launch(
        runtime.process,
        program("containerd"),
        f"--config={configuration}",
        "--log-level=info",
        # iptables and friends for the CNI programs; shims inherit the cluster's mark from here.
        env={"PATH": f"{shims}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"},
    )
    # It answers before it serves the kubelet, which would end at "server is not initialized yet".
    wait_until(
        "containerd to boot",
        lambda: _BOOTED in log.read_bytes()[told_before:],
        process=process,
        poll_seconds=0.1,
    )
