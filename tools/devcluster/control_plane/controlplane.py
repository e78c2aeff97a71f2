"""etcd, kube-apiserver and kube-controller-manager as child processes of nobody.

Used alone for tests and benchmarks (`control-plane` profile), and as the first half of a node.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devcluster import host
from devcluster.control_plane.apiclient import ApiClient, wait_until
from devcluster.control_plane.certificates import (
    create_control_plane_certificates,
    load_authority,
    write_certificates,
)
from devcluster.control_plane.kubeconfig import render_kubeconfig, write_kubeconfig
from devcluster.errors import StateError
from devcluster.paths import cluster_dir
from devcluster.ports import PortClaims, is_free
from devcluster.process import ProcessRecord, is_alive, spawn, stop
from devcluster.programs.binaries import program
from devcluster.state import ClusterState, save_state

SERVICE_RANGE = "10.96.0.0/16"
FIRST_SERVICE_ADDRESS = "10.96.0.1"
KUBECTL_SECONDS = 600.0
"""Longer than any ``kubectl wait`` that is asked for."""
SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc.cluster.local"

# One line per request and no bodies: what a benchmark counts.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlPlaneOptions:
    """How a control plane differs from the default.

    Attributes:
        audit_log: Whether the API server writes an audit log (one JSON line per request).
        controllers: The controller-manager's ``--controllers``, for example
            ``*,-job-controller``; None starts no controller-manager at all.
        bind_address: Address of the API server; the node profile uses its bridge.
        port: Preferred port of the API server; None takes a free one.
        api_server_flags: More flags for kube-apiserver.
        api_server_environment: Its environment variables, such as Go's ``GOGC``.
        audit_policy: Audit policy, as the ``audit.k8s.io/v1`` document.
    """

    audit_log: bool = False
    controllers: str | None = "*"
    bind_address: str = "127.0.0.1"
    port: int | None = None
    api_server_flags: Sequence[str] = ()
    api_server_environment: Mapping[str, str] = field(default_factory=dict)
    audit_policy: Mapping[str, object] = field(default_factory=lambda: AUDIT_POLICY)


class ControlPlane:
    """A running control plane.

    Attributes:
        name: Cluster name.
        folder: Its folder: ``pki/``, ``logs/``, ``kubeconfig``, ``state.json``.
        url: ``https://address:port`` of the API server; the same after a restart.
        kubeconfig: Kubeconfig of an administrator (``system:masters``).
        audit_log: The audit log; empty or absent unless asked for.
    """

    def __init__(self, state: ClusterState, options: ControlPlaneOptions) -> None:
        self.state = state
        self.options = options
        self.name = state.name
        self.folder = cluster_dir(state.name)
        self.pki = self.folder / "pki"
        self.kubeconfig = self.folder / "kubeconfig"
        self.audit_log = self.folder / "logs" / "audit.jsonl"
        self.url = state.values.get("url", "")

    # --- certificates and access -----------------------------------------------------------

    @property
    def authority(self) -> Path:
        """Certificate of the cluster's authority."""
        return self.pki / "ca.crt"

    @property
    def client_certificate(self) -> Path:
        """Administrator's client certificate."""
        return self.pki / "admin.crt"

    @property
    def client_key(self) -> Path:
        """Key of `client_certificate`."""
        return self.pki / "admin.key"

    def client(self) -> ApiClient:
        """A small API client as administrator."""
        return ApiClient(
            self.url,
            authority=self.authority,
            certificate=self.client_certificate,
            key=self.client_key,
        )

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig that authenticates as `user` in `groups` (for RBAC tests)."""
        pair = load_authority(self.pki).issue_client(user, groups)
        content = render_kubeconfig(
            cluster=self.name, url=self.url, authority=self.authority.read_bytes(), client=pair
        )
        safe = re.sub(r"[^A-Za-z0-9.-]+", "-", user)
        return write_kubeconfig(self.folder / f"kubeconfig-{safe}", content)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as administrator and return its output.

        Raises:
            CommandError: kubectl failed; the message holds what it said. Or it hangs.
        """
        command = [str(program("kubectl")), "--kubeconfig", str(self.kubeconfig)]
        command += ["--request-timeout=60s", *arguments]
        return host.run(command, stdin=stdin, timeout_seconds=KUBECTL_SECONDS).stdout

    # --- the API server's life --------------------------------------------------------------

    def stop_api_server(self, *, grace_seconds: float = 1.0) -> None:
        """End the API server; clients see refused connections until `start_api_server`.

        Args:
            grace_seconds: Time between SIGTERM and SIGKILL. A graceful end takes up to a minute
                while watches are open; 0 is a crash. Nothing is lost either way: etcd has it.
        """
        self.stop_process("kube-apiserver", grace_seconds=grace_seconds)

    def start_api_server(self) -> None:
        """Start the API server again on the same address and wait until it is ready."""
        address, _, port = self.url.removeprefix("https://").rpartition(":")
        wait_until(f"the last user of port {port} to be gone", lambda: is_free(int(port), address))
        self._start_api_server()

    def restart_api_server(self) -> None:
        """Stop and start the API server: every watch is cut."""
        self.stop_api_server()
        self.start_api_server()

    def restart_etcd(self, *, pause_seconds: float = 0.0) -> None:
        """Kill etcd and start it again on the same data; the API server serves nothing meanwhile.

        Args:
            pause_seconds: How long it is away.
        """
        self.stop_process("etcd", grace_seconds=0)
        time.sleep(pause_seconds)
        self._start_etcd()

    def is_ready(self) -> bool:
        """Whether every recorded process runs and the API server answers."""
        return all(map(is_alive, self.state.processes)) and self.client().ready()

    # --- start ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything and wait until a pod could be created.

        Raises:
            StartError: a component ended or did not become ready.
        """
        ports = PortClaims(self.folder)
        address = self.options.bind_address
        port = ports.claim(preferred=self.options.port, address=address)
        self.url = f"https://{address}:{port}"
        self.state.values |= {
            "url": self.url,
            "kubeconfig": str(self.kubeconfig),
            "etcd": f"http://127.0.0.1:{ports.claim()}",
            "etcd-peer": f"http://127.0.0.1:{ports.claim()}",
        }
        self.save()
        self._write_credentials(address)
        self._start_etcd()
        self._start_api_server()
        if self.options.controllers is not None:
            self._start_controller_manager(self.options.controllers)

    def _write_credentials(self, address: str) -> None:
        names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            *dict.fromkeys(("127.0.0.1", FIRST_SERVICE_ADDRESS, address)),
        ]
        pairs = create_control_plane_certificates(names)
        write_certificates(self.pki, pairs)
        for user, path in (
            ("admin", self.kubeconfig),
            ("controller-manager", self.pki / "controller-manager.kubeconfig"),
            ("scheduler", self.pki / "scheduler.kubeconfig"),
        ):
            content = render_kubeconfig(
                cluster=self.name,
                url=self.url,
                authority=pairs["ca"].certificate,
                client=pairs[user],
            )
            write_kubeconfig(path, content)

    def _start_etcd(self) -> None:
        url, peer = self.state.values["etcd"], self.state.values["etcd-peer"]
        self.launch(
            "etcd",
            program("etcd"),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",  # the data is thrown away with the cluster
            "--quota-backend-bytes=8589934592",
            "--log-level=warn",
        )

    def _start_api_server(self) -> None:
        pki, url = self.pki, self.url
        address, _, port = url.removeprefix("https://").rpartition(":")
        process = self.launch(
            "kube-apiserver",
            program("kube-apiserver"),
            f"--etcd-servers={self.state.values['etcd']}",
            f"--bind-address={address}",
            f"--advertise-address={address}",
            f"--secure-port={port}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--proxy-client-cert-file={pki / 'front-proxy-client.crt'}",
            f"--proxy-client-key-file={pki / 'front-proxy-client.key'}",
            f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--service-account-issuer={SERVICE_ACCOUNT_ISSUER}",
            f"--service-account-key-file={pki / 'service-account.crt'}",
            f"--service-account-signing-key-file={pki / 'service-account.key'}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            # A loopback address may not be published as an endpoint, and no pod would need it.
            *(["--endpoint-reconciler-type=none"] if address.startswith("127.") else []),
            *self._audit_flags(),
            *self.options.api_server_flags,
            env=self.options.api_server_environment,
        )
        client = self.client()
        wait_until("the API server to be ready", client.ready, process=process)

    def _audit_flags(self) -> list[str]:
        if not self.options.audit_log:
            return []
        policy = self.folder / "audit-policy.json"
        policy.write_text(json.dumps(self.options.audit_policy))
        # Blocking mode, the default: every answered request is already in the file.
        return [
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-maxsize=100000",  # MB; after 100 it would begin another file
        ]

    def _start_controller_manager(self, controllers: str) -> None:
        pki = self.pki
        kubeconfig = pki / "controller-manager.kubeconfig"
        process = self.launch(
            "kube-controller-manager",
            program("kube-controller-manager"),
            f"--kubeconfig={kubeconfig}",
            f"--controllers={controllers}",
            "--leader-elect=false",
            "--use-service-account-credentials",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--service-account-private-key-file={pki / 'service-account.key'}",
            f"--cluster-signing-cert-file={pki / 'ca.crt'}",
            f"--cluster-signing-key-file={pki / 'ca.key'}",
            "--secure-port=0",
            # Its client-side limits (20/s) would be what a load test measures.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )
        client = self.client()

        def pods_can_be_created() -> bool:
            path = "/api/v1/namespaces/default/serviceaccounts/default"
            return client.send("GET", path)[0] == 200

        wait_until(
            "the controller-manager to make the default service account",
            pods_can_be_created,
            process=process,
        )

    # --- processes -----------------------------------------------------------------------------

    def launch(
        self, name: str, path: Path, *flags: str, env: Mapping[str, str] | None = None
    ) -> ProcessRecord:
        """Start one component, recorded in the state; its log is ``logs/<name>.log``."""
        record = spawn(
            name,
            [str(path), *flags],
            log=self.folder / "logs" / f"{name}.log",
            cluster=self.folder,
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": str(self.folder),
                **(env or {}),
            },
        )
        others = [each for each in self.state.processes if each.name != name]
        self.state.processes = [*others, record]
        self.save()
        return record

    def save(self) -> None:
        """Write the record of the cluster."""
        save_state(self.folder, self.state)

    def _process(self, name: str) -> ProcessRecord:
        for record in self.state.processes:
            if record.name == name:
                return record
        raise StateError(f"cluster {self.name} has no process {name}")

    def stop_process(self, name: str, *, grace_seconds: float = 1.0) -> None:
        """Stop one component by name; `launch` starts it again."""
        stop(self._process(name), grace_seconds=grace_seconds)
