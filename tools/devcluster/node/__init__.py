"""The `node` profile: one real node that runs pods, on this host, as root."""

from devcluster.node.node import Node, NodeOptions, start_node

__all__ = ["Node", "NodeOptions", "start_node"]
