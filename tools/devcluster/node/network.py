"""The pod network: one bridge, CNI's configuration for it, and what keeps pods inside.

Pods reach each other, the host's bridge address and Services. They reach the world outside only if
`NodeOptions.internet` asks for it: a test that passes here needs no network.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from devcluster.errors import HostUnfitError
from devcluster.host import run

BRIDGE = "ftdev0"
CNI_NETWORK = "finetune-devcluster"
CNI_PROGRAMS = Path("/usr/lib/cni")
RULE_COMMENT = "finetune-devcluster"
# Tried in order: another bridge (podman's is 10.88) may own the first.
CANDIDATE_RANGES = tuple(f"10.{second}.0.0/16" for second in range(88, 96))

# Changed by the kubelet, kube-proxy or us, and restored by `down`.
SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.route_localnet",
    "net.bridge.bridge-nf-call-iptables",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PodNetwork:
    """Addresses of the pod network.

    Attributes:
        pod_range: All pod addresses, as CIDR.
        gateway: The bridge's address: where pods reach the host.
    """

    pod_range: str
    gateway: str


def choose_network() -> PodNetwork:
    """The first candidate range that no interface of this host is in.

    Raises:
        HostUnfitError: all are taken, or the bridge of another dev cluster is there.
    """
    interfaces = json.loads(run(["ip", "-json", "address"]).stdout)
    if any(each["ifname"] == BRIDGE for each in interfaces):
        raise HostUnfitError(
            f"the interface {BRIDGE} exists: another node cluster runs on this host, or was not "
            "removed. `python -m devcluster status` names it, `down --all` removes it; if neither "
            f"knows it, `ip link delete {BRIDGE}`"
        )
    taken = [
        ipaddress.ip_network(f"{address['local']}/{address['prefixlen']}", strict=False)
        for each in interfaces
        for address in each.get("addr_info", [])
        if address["family"] == "inet"
    ]
    for candidate in CANDIDATE_RANGES:
        network = ipaddress.ip_network(candidate)
        if not any(network.overlaps(each) for each in taken):
            return PodNetwork(pod_range=candidate, gateway=str(network[1]))
    raise HostUnfitError(f"every pod range is taken by an interface: {', '.join(CANDIDATE_RANGES)}")


def read_sysctls() -> dict[str, str]:
    """Current values of the kernel settings a node changes; those that exist."""
    paths = {name: _sysctl_path(name) for name in SYSCTLS}
    return {name: path.read_text().strip() for name, path in paths.items() if path.exists()}


def write_sysctl(name: str, value: str) -> None:
    """Set one kernel setting, if the kernel has it and lets us."""
    path = _sysctl_path(name)
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError:
        return  # absent or read-only: it was not changed either


def create_bridge(network: PodNetwork, *, internet: bool) -> None:
    """Make the bridge, let packets through it and keep them from leaving it."""
    prefix = network.pod_range.partition("/")[2]
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "address", "add", f"{network.gateway}/{prefix}", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    write_sysctl("net.ipv4.ip_forward", "1")
    if not _sysctl_path("net.bridge.bridge-nf-call-iptables").exists():
        run(["modprobe", "br_netfilter"], check=False)
    write_sysctl("net.bridge.bridge-nf-call-iptables", "1")
    if not internet:
        _forward_rule("-I")


def remove_bridge() -> None:
    """Remove the bridge, what hangs on it, and its packet-filter rule."""
    listed = run(["ip", "-json", "link", "show", "master", BRIDGE], check=False).stdout
    for port in json.loads(listed or "[]"):
        run(["ip", "link", "delete", port["ifname"]], check=False)
    run(["ip", "link", "delete", BRIDGE], check=False)
    _forward_rule("-D", check=False)


def write_cni_configuration(folder: Path, network: PodNetwork, *, internet: bool) -> None:
    """The one conflist containerd reads; address leases go below `folder`, not /var/lib/cni."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "cniVersion": "1.0.0",
        "name": CNI_NETWORK,
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "ipMasq": internet,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folder.parent / "leases"),
                    "ranges": [[{"subnet": network.pod_range}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    (folder / "10-bridge.conflist").write_text(json.dumps(document, indent=1))


def _forward_rule(action: str, *, check: bool = True) -> None:
    rule = [
        *("FORWARD", "-i", BRIDGE, "!", "-o", BRIDGE),
        *("-m", "comment", "--comment", RULE_COMMENT, "-j", "REJECT"),
    ]
    run(["iptables", "-w", action, *rule], check=check)


def _sysctl_path(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")
