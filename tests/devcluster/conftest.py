"""The dev cluster's own tests use the fixtures they test."""

from support.devcluster import (  # noqa: F401
    base_image,
    control_plane,
    control_plane_factory,
    namespace,
    node_cluster,
    private_control_plane,
    project_images,
)
