"""Smallest possible Kubernetes objects for tests of the generic runtime."""

from __future__ import annotations

from typing import Any


def pod(
    name: str, version: int | str, *, namespace: str = "ns", uid: str = "", **metadata: Any
) -> dict[str, Any]:
    """Build a pod that is nothing but metadata."""
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            **metadata,
        }
    }
