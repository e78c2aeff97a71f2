"""Settings for all tests: no network, patient property tests, children without noise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Models and data come from packages or are generated; a test that asks the Hub is a bug.
for switch in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(switch, "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Property tests judge results, not speed: shared machines are slow at times.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

CLUSTER_TESTS = "FINETUNE_CLUSTER_TESTS"
ROOT = Path(__file__).parent
ON_A_CLUSTER = (
    "e2e/",
    "devcluster/test_footprint.py",
    "devcluster/test_images.py",
    "devcluster/test_node.py",
    "control_plane/test_crashes.py",
    "control_plane/test_faults.py",
    "control_plane/test_lifecycle.py",
    "control_plane/test_progress.py",
    "control_plane/test_rbac.py",
    "control_plane/test_replicas.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs a cluster of its own for many minutes, unless asked for."""
    if os.environ.get(CLUSTER_TESTS) == "1":
        return
    skip = pytest.mark.skip(reason=f"runs the operator on a cluster: set {CLUSTER_TESTS}=1")
    for item in items:
        if str(item.path.relative_to(ROOT)).startswith(ON_A_CLUSTER):
            item.add_marker(skip)
