"""The dev cluster's own tests use the fixtures they test."""

from support.devcluster import (  # noqa: F401
    control_plane,
    control_plane_factory,
    namespace,
    private_control_plane,
)
