"""The chart is rendered by helm, and parts of it are installed on an API server."""

from __future__ import annotations

from kit.cluster.chart import helm, render, run_helm
from kit.cluster.devcluster import (
    control_plane,
    control_plane_factory,
    namespace,
    private_control_plane,
)

__all__ = [
    "helm",
    "render",
    "run_helm",
    "control_plane",
    "control_plane_factory",
    "namespace",
    "private_control_plane",
]
