"""The cluster's commands are tested on a real API server."""

from __future__ import annotations

from kit.cluster.devcluster import control_plane, control_plane_factory, namespace

__all__ = ["control_plane", "control_plane_factory", "namespace"]
