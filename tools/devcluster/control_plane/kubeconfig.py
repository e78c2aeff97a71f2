"""Kubeconfig files, self-contained: certificates inside, so that one file can be handed on."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from devcluster.control_plane.certificates import KeyPair


def render_kubeconfig(*, cluster: str, url: str, authority: bytes, client: KeyPair) -> str:
    """A kubeconfig with one cluster, one user and one context of the name `cluster`.

    JSON is YAML: no YAML writer needed, and every reader takes it.
    """
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster,
                "cluster": {"server": url, "certificate-authority-data": _encode(authority)},
            }
        ],
        "users": [
            {
                "name": cluster,
                "user": {
                    "client-certificate-data": _encode(client.certificate),
                    "client-key-data": _encode(client.key),
                },
            }
        ],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
        "current-context": cluster,
        "preferences": {},
    }
    return json.dumps(document, indent=1)


def write_kubeconfig(path: Path, content: str) -> Path:
    """Write `content` readable by the owner only."""
    path.touch(mode=0o600)
    path.write_text(content)
    return path


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
