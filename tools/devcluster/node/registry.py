"""An image registry on loopback; its content survives ``down``."""

from __future__ import annotations

import json

from devcluster.control_plane.apiclient import wait_until
from devcluster.control_plane.controlplane import ControlPlane
from devcluster.node.services import answers
from devcluster.paths import cache_root
from devcluster.ports import PortClaims
from devcluster.programs.binaries import program

PREFERRED_PORT = 5000


def start_registry(cluster: ControlPlane, claims: PortClaims) -> str:
    """Start the registry; returns its address for image references (``127.0.0.1:5000``)."""
    port = claims.claim(preferred=PREFERRED_PORT)
    address = f"127.0.0.1:{port}"
    root = cache_root() / "registry"
    root.mkdir(parents=True, exist_ok=True)
    configuration = cluster.folder / "registry.json"
    configuration.write_text(
        json.dumps(
            {
                "version": 0.1,
                "log": {"level": "warn", "accesslog": {"disabled": True}},
                "storage": {
                    "filesystem": {"rootdirectory": str(root)},
                    "delete": {"enabled": True},
                    "maintenance": {"uploadpurging": {"enabled": False}},
                },
                "http": {"addr": address},
            }
        )
    )
    process = cluster.launch(
        "registry",
        program("registry"),
        "serve",
        str(configuration),
        env={"OTEL_TRACES_EXPORTER": "none"},  # it would look for a collector otherwise
    )
    wait_until("the image registry", lambda: answers(port, "/v2/"), process=process)
    return address
