"""A node: its parts start in order, and each is recorded before it exists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from devcluster import host
from devcluster.control_plane.controlplane import ControlPlane, ControlPlaneOptions
from devcluster.errors import HostUnfitError, StateError
from devcluster.host import run
from devcluster.node import kubelet, network, objectstore, registry, runtime, services
from devcluster.node.network import PodNetwork
from devcluster.node.objectstore import ObjectStore
from devcluster.node.place import first_place
from devcluster.paths import kubelet_root, socket_root
from devcluster.ports import PortClaims
from devcluster.programs.binaries import program
from devcluster.progress import step
from devcluster.state import ClusterState

API_SERVER_PORT = 6443
FIXED_FOLDERS = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/run/containerd")


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOptions:
    """How a node differs from the default.

    Attributes:
        num_gpus: How many ``nvidia.com/gpu`` the node claims to have.
        audit_log: Whether the API server writes an audit log.
        internet: Whether pods reach addresses outside the host; off, so that tests need none.
        api_server_flags: Further flags of the API server.
    """

    num_gpus: int = 8
    audit_log: bool = False
    internet: bool = False
    api_server_flags: tuple[str, ...] = ()


class Node(ControlPlane):
    """A running node cluster: a control plane that also runs pods.

    Attributes:
        registry: Address of the image registry, as in image references; for this host only.
        gateway: The bridge's address, where pods reach servers on this host.
    """

    def __init__(self, state: ClusterState, options: NodeOptions) -> None:
        super().__init__(state, ControlPlaneOptions(audit_log=options.audit_log))
        self.node_options = options

    @property
    def registry(self) -> str:
        """Address of the image registry."""
        return self.state.values["registry"]

    @property
    def gateway(self) -> str:
        """The bridge's address."""
        return self.state.values["gateway"]

    def image(self, name: str) -> str:
        """Reference of a project image (``operator``, ``trainer``) that ``load`` built.

        Raises:
            StateError: it was not loaded.
        """
        try:
            return self.state.values[f"image-{name}"]
        except KeyError as error:
            raise StateError(
                f"the image {name} is not on the node: run `python -m devcluster load {name}`"
            ) from error

    @property
    def object_store(self) -> ObjectStore:
        """Endpoint and keys of the S3 server."""
        return objectstore.read_object_store(self.folder, self.state.values["s3"])

    def start(self) -> None:
        """Start everything; about half a minute when built.

        Raises:
            DevclusterError: a part did not start.
        """
        pods = network.choose_network()
        self._record_before_making(pods)
        claims = PortClaims(self.folder)
        network.create_bridge(pods, internet=self.node_options.internet)
        self.options = ControlPlaneOptions(
            audit_log=self.node_options.audit_log,
            bind_address=pods.gateway,
            port=API_SERVER_PORT,
            api_server_flags=self.node_options.api_server_flags,
        )
        with step("control plane"):
            super().start()
        with step("scheduler, registry, object store"):
            self._start_scheduler()
            self.state.values["registry"] = registry.start_registry(self, claims)
            store = objectstore.start_object_store(self, pods, claims)
            self.state.values["s3"] = store.endpoint
        with step("containerd"):
            self._start_containerd(pods)
        with step("kubelet, DNS, kube-proxy"):
            ports = (claims.claim(preferred=10250, address=pods.gateway), claims.claim())
            kubelet.start_kubelet(self, pods, first_place(self.name), ports=ports)
            services.start_dns(self, pods, claims)
            # Healthy only once its node exists: after the kubelet.
            services.start_proxy(self, pods, claims)
        kubelet.fake_gpus(self, self.node_options.num_gpus)
        self.state.values["gpus"] = str(self.node_options.num_gpus)
        self.save()

    def _record_before_making(self, pods: PodNetwork) -> None:
        self.state.values |= {"gateway": pods.gateway, "pods": pods.pod_range}
        self.state.interfaces = [network.BRIDGE]
        groups = kubelet.cgroup_folders(first_place(self.name).cgroup)
        self.state.cgroups = [str(each) for each in groups]
        # Kubelet, containerd and CNI do not let one choose these; what was there stays.
        fixed = [each for each in FIXED_FOLDERS if not Path(each).exists()]
        own = [str(socket_root(self.name)), str(kubelet_root(self.name))]
        self.state.folders = [*own, *fixed]
        self.state.sysctls = network.read_sysctls()
        rules = run(["iptables-save"]).stdout
        if ":KUBE-" in rules:
            raise HostUnfitError(
                "another Kubernetes has packet-filter rules on this host (KUBE-* chains in "
                "`iptables-save`); two would get in each other's way. "
                f"Stop that one first. {host.INSTEAD}"
            )
        self.state.chain_prefixes = [p for p in ("KUBE-", "CNI-") if f":{p}" not in rules]
        self.save()
        kubelet.create_cgroups(groups)

    def _start_scheduler(self) -> None:
        self.launch(
            "kube-scheduler",
            program("kube-scheduler"),
            f"--kubeconfig={self.pki / 'scheduler.kubeconfig'}",
            f"--authentication-kubeconfig={self.pki / 'scheduler.kubeconfig'}",
            f"--authorization-kubeconfig={self.pki / 'scheduler.kubeconfig'}",
            "--leader-elect=false",
            "--secure-port=0",
            "--bind-address=127.0.0.1",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )

    def _start_containerd(self, pods: PodNetwork) -> None:
        cni = self.folder / "cni" / "net.d"
        network.write_cni_configuration(cni, pods, internet=self.node_options.internet)
        runtime.start_runtime(self, runtime.runtime_of(self.name), cni=cni, registry=self.registry)
