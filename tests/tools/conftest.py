"""Tests of tools render the chart and start clusters."""

from __future__ import annotations

from kit.cluster.chart import helm, run_helm

__all__ = [
    "helm",
    "run_helm",
]
