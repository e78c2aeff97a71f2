"""Fixtures for tests on a real API server; see ``support.devcluster``."""

from __future__ import annotations

from support.devcluster import (  # noqa: F401
    control_plane,
    control_plane_factory,
    namespace,
    private_control_plane,
)
