"""The chart is rendered by helm, and parts of it are installed on an API server."""

from __future__ import annotations

from kit.cluster.chart import helm, render, run_helm

__all__ = [
    "helm",
    "render",
    "run_helm",
]
