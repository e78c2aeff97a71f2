"""The kubelet: its configuration, its credentials, its control group, and GPUs it does not have."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from devcluster.control_plane.apiclient import wait_until
from devcluster.control_plane.certificates import load_authority, write_certificates
from devcluster.control_plane.controlplane import ControlPlane
from devcluster.control_plane.kubeconfig import render_kubeconfig, write_kubeconfig
from devcluster.node.network import PodNetwork
from devcluster.node.place import FIRST_NODE, Place
from devcluster.programs.binaries import program

MAX_PODS = 200
GPU_RESOURCE = "nvidia.com/gpu"
_CGROUP_MOUNT = Path("/sys/fs/cgroup")
_CPU_SHARES = {"cpu.shares": "4096", "cpu.weight": "400"}
"""Four times the default: of cgroup v1 and v2."""


def render_configuration(
    *, network: PodNetwork, place: Place, pki: Path, ports: tuple[int, int], max_pods: int
) -> dict[str, Any]:
    """The KubeletConfiguration document.

    Args:
        network: Pod network; the kubelet listens on its gateway, and CoreDNS does.
        place: Where the node lies.
        pki: Folder of the certificates.
        ports: The kubelet's port and that of its health endpoint on loopback.
        max_pods: How many pods it takes at once.
    """
    port, health_port = ports
    folder = place.folder
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.gateway,
        "port": port,
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": health_port,
        "tlsCertFile": str(pki / f"kubelet-server{place.suffix}.crt"),
        "tlsPrivateKeyFile": str(pki / f"kubelet-server{place.suffix}.key"),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{place.runtime.socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{place.cgroup}",
        "failCgroupV1": False,  # refuses by default since 1.35
        "failSwapOn": False,
        "oomScoreAdj": 0,  # lowering it needs CAP_SYS_RESOURCE
        "clusterDNS": [network.gateway],
        "clusterDomain": "cluster.local",
        "resolvConf": str(folder / "resolv.conf"),
        "podLogsDir": str(folder / "pod-logs"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "maxPods": max_pods,
        # Disks of build hosts are often nearly full: no pod is evicted for that.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
        # Defaults: a minute, 10 s, a minute. Mounted Secrets, node status and pods that write more
        # than they may are seen sooner.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "volumeStatsAggPeriod": "10s",
    }


def cgroup_folders(name: str, mount: Path = _CGROUP_MOUNT) -> list[Path]:
    """The kubelet's root group in every hierarchy (one under cgroup v2)."""
    if (mount / "cgroup.controllers").exists():
        return [mount / name]
    # `unified`, the v2 hierarchy that systemd mounts beside v1, is among them: runc uses it too.
    hierarchies = [each for each in mount.iterdir() if each.is_dir() and not each.is_symlink()]
    return [each / name for each in sorted(hierarchies)]


def create_cgroups(folders: list[Path]) -> None:
    """Make the root groups; a cpuset must be filled before anything can be in it.

    All pods together would get as much of a busy processor as one other process.
    """
    for folder in folders:
        folder.mkdir(exist_ok=True)
        for name, share in _CPU_SHARES.items():
            if (folder / name).exists():
                (folder / name).write_text(share)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (folder / name).exists() and not (folder / name).read_text().strip():
                value = (folder.parent / name).read_text()
                if value.strip():
                    (folder / name).write_text(value)


def start_kubelet(
    cluster: ControlPlane,
    network: PodNetwork,
    place: Place,
    *,
    ports: tuple[int, int],
    max_pods: int = MAX_PODS,
) -> None:
    """Start the kubelet of a node and wait until the node is Ready."""
    folder = place.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resolv.conf").write_text("")  # pods ask CoreDNS and nobody else
    _write_credentials(cluster, network, place)
    document = render_configuration(
        network=network, place=place, pki=cluster.pki, ports=ports, max_pods=max_pods
    )
    configuration = folder / "config.json"
    configuration.write_text(json.dumps(document, indent=1))
    process = cluster.launch(
        place.kubelet,
        program("kubelet"),
        f"--config={configuration}",
        f"--kubeconfig={folder / 'kubeconfig'}",
        f"--root-dir={place.root}",
        f"--cert-dir={folder / 'certificates'}",
        f"--hostname-override={place.node}",
        f"--node-ip={network.gateway}",
        env={"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"},
    )
    wait_until("the node to be Ready", lambda: node_is_ready(cluster, place.node), process=process)


def node_is_ready(cluster: ControlPlane, node: str = FIRST_NODE) -> bool:
    """Whether a node is Ready."""
    status, raw = cluster.client().send("GET", f"/api/v1/nodes/{node}")
    if status != 200:
        return False
    conditions = json.loads(raw)["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def fake_gpus(cluster: ControlPlane, num_gpus: int) -> None:
    """Advertise GPUs that are not there, as an extended resource on the node's status.

    The kubelet keeps what it finds there and copies it from capacity to allocatable at its next
    status update; both are set here, so that nothing waits for that.
    """
    resource = GPU_RESOURCE.replace("~", "~0").replace("/", "~1")
    operations = [
        {"op": "add", "path": f"/status/{field}/{resource}", "value": str(num_gpus)}
        for field in ("capacity", "allocatable")
    ]
    cluster.client().call(
        "PATCH",
        f"/api/v1/nodes/{FIRST_NODE}/status",
        operations,
        content_type="application/json-patch+json",
    )


def _write_credentials(cluster: ControlPlane, network: PodNetwork, place: Place) -> None:
    authority = load_authority(cluster.pki)
    client = authority.issue_client(f"system:node:{place.node}", ["system:nodes"])
    server = authority.issue_server(place.node, [place.node, network.gateway])
    pairs = {"kubelet-client": client, "kubelet-server": server}
    write_certificates(cluster.pki, {f"{name}{place.suffix}": pairs[name] for name in pairs})
    content = render_kubeconfig(
        cluster=cluster.name,
        url=cluster.url,
        authority=cluster.authority.read_bytes(),
        client=client,
    )
    write_kubeconfig(place.folder / "kubeconfig", content)
