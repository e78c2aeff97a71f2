"""Write a small image as a docker-archive: what ``ctr images import`` takes without a registry."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_image(
    target: Path,
    reference: str,
    *,
    files: Mapping[str, Path],
    entrypoint: Sequence[str],
    user: str,
    architecture: str = "amd64",
) -> None:
    """Write an image of one layer.

    Same input, same bytes: all times are 0 and all owners root.

    Args:
        target: The tar file.
        reference: Name and tag of the image.
        files: Path inside the image -> file on this host; all become executable.
        entrypoint: Command of the container.
        user: Numeric user (and group): the kubelet refuses a name under ``runAsNonRoot``.
        architecture: Go's name of the CPU architecture.
    """
    layer = _tar({name: (path.read_bytes(), 0o755) for name, path in files.items()})
    configuration = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "User": user, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "finetune devcluster"}],
    }
    document = json.dumps(configuration, sort_keys=True).encode()
    name = f"{hashlib.sha256(document).hexdigest()}.json"
    manifest: list[dict[str, Any]] = [
        {"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]}
    ]
    target.write_bytes(
        _tar(
            {
                name: (document, 0o644),
                "layer.tar": (layer, 0o644),
                "manifest.json": (json.dumps(manifest).encode(), 0o644),
            }
        )
    )


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
