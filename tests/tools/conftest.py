"""Tests of tools render the chart and start clusters."""

from __future__ import annotations

from kit.cluster.chart import helm, run_helm
from kit.cluster.devcluster import (
    control_plane,
    control_plane_factory,
    namespace,
    private_control_plane,
)

__all__ = [
    "helm",
    "run_helm",
    "control_plane",
    "control_plane_factory",
    "namespace",
    "private_control_plane",
]
