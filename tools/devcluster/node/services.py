"""kube-proxy and CoreDNS: Services and their names."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any

from devcluster.control_plane.apiclient import wait_until
from devcluster.control_plane.controlplane import ControlPlane
from devcluster.node.network import PodNetwork
from devcluster.node.place import FIRST_NODE
from devcluster.ports import PortClaims
from devcluster.programs.binaries import program

_READER = "finetune-devcluster:coredns"


def render_proxy_configuration(
    *, network: PodNetwork, kubeconfig: str, health_port: int, metrics_port: int
) -> dict[str, Any]:
    """The KubeProxyConfiguration document."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "hostnameOverride": FIRST_NODE,
        "clusterCIDR": network.pod_range,
        "healthzBindAddress": f"127.0.0.1:{health_port}",
        "metricsBindAddress": f"127.0.0.1:{metrics_port}",
        # Node ports, if a test asks for one, only on the bridge.
        "nodePortAddresses": [network.pod_range],
        # The host's connection-tracking limits are not ours to change.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "iptables": {"localhostNodePorts": False, "syncPeriod": "30s", "minSyncPeriod": "200ms"},
        "oomScoreAdj": 0,
    }


def start_proxy(cluster: ControlPlane, network: PodNetwork, claims: PortClaims) -> None:
    """Start kube-proxy and wait until it has written its rules."""
    kubeconfig = cluster.kubeconfig_for("system:kube-proxy")
    health_port = claims.claim()
    document = render_proxy_configuration(
        network=network,
        kubeconfig=str(kubeconfig),
        health_port=health_port,
        metrics_port=claims.claim(),
    )
    configuration = cluster.folder / "kube-proxy.json"
    configuration.write_text(json.dumps(document, indent=1))
    process = cluster.launch(
        "kube-proxy",
        program("kube-proxy"),
        f"--config={configuration}",
        env={"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"},
    )
    wait_until("kube-proxy", lambda: answers(health_port, "/healthz"), process=process)


def render_corefile(*, network: PodNetwork, kubeconfig: str, ready_port: int) -> str:
    """CoreDNS' configuration: the cluster's names and nothing else.

    No cache: a rendezvous name that is asked for before its pod has an address must be seen the
    moment it has one. No forwarding: names of the world outside do not exist in here.
    """
    return f"""\
. {{
    bind {network.gateway}
    errors
    ready 127.0.0.1:{ready_port}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 1
    }}
}}
"""


def start_dns(cluster: ControlPlane, network: PodNetwork, claims: PortClaims) -> None:
    """Start CoreDNS on the bridge and wait until it has seen the cluster's Services."""
    _allow_reading(cluster)
    kubeconfig = cluster.kubeconfig_for("system:coredns")
    ready_port = claims.claim()
    corefile = cluster.folder / "Corefile"
    corefile.write_text(
        render_corefile(network=network, kubeconfig=str(kubeconfig), ready_port=ready_port)
    )
    process = cluster.launch("coredns", program("coredns"), f"-conf={corefile}")
    wait_until("CoreDNS", lambda: answers(ready_port, "/ready"), process=process)


def answers(port: int, path: str) -> bool:
    """Whether an HTTP server on loopback answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _allow_reading(cluster: ControlPlane) -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": _READER},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["services", "namespaces", "pods"],
                "verbs": ["list", "watch"],
            },
            {
                "apiGroups": ["discovery.k8s.io"],
                "resources": ["endpointslices"],
                "verbs": ["list", "watch"],
            },
        ],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": _READER},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": _READER,
        },
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}
        ],
    }
    client = cluster.client()
    base = "/apis/rbac.authorization.k8s.io/v1"
    client.call("POST", f"{base}/clusterroles", role)
    client.call("POST", f"{base}/clusterrolebindings", binding)
