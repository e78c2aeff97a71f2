"""Settings for all tests: no network, patient property tests, children without noise."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# One node per host, so one for the whole session: a fixture that is imported into several
# conftest files is set up once in each.
from kit.cluster.devcluster import base_image, kueue, node_cluster, project_images  # noqa: F401

# Models and data come from packages or are generated; a test that asks the Hub is a bug.
for switch in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(switch, "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Property tests judge results, not speed: shared machines are slow at times. The same examples in
# every run, so that a change is judged by what it changed; `make properties` looks for new ones.
settings.register_profile(
    "patient", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "searching",
    deadline=None,
    max_examples=int(os.environ.get("FINETUNE_PROPERTY_EXAMPLES", "1000")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("searching" if "FINETUNE_PROPERTY_EXAMPLES" in os.environ else "patient")

# looptime asks for the current event loop before every test, also those that have none. Up to
# Python 3.13 asking makes one unless somebody has said that there is none; nobody would ever close
# it, and its warning failed whichever test ran when it was collected.
asyncio.set_event_loop(None)

WITHOUT_SLOW_TESTS = "not slow"
"""What `make test-fast` selects of the unit tests. `make test` runs them first, as it does."""
WITHOUT_FAST_TESTS = "not fast"
"""What `make test` runs after them."""
_UNIT_TESTS = Path(__file__).parent / "unit"
_SLOW_MODULE = re.compile(r"^pytestmark = (\[[^\]]*)?pytest\.mark\.slow\b", re.MULTILINE)


class _FinderWithoutTorch:
    """Finds modules as on a machine that has no torch."""

    def find_spec(self, name: str, *others: Any) -> ModuleSpec | None:
        return None if name == "torch" else PathFinder.find_spec(name, *others)

    def __getattr__(self, name: str) -> Any:
        return getattr(PathFinder, name)


def pytest_configure(config: pytest.Config) -> None:
    """Hide torch where slow tests are left out: a test that imports it all the same fails.

    The import alone takes as long as some hundred fast tests.
    """
    if config.option.markexpr == WITHOUT_SLOW_TESTS:
        assert "torch" not in sys.modules
        at = sys.meta_path.index(PathFinder)
        sys.meta_path[at] = _FinderWithoutTorch()  # type: ignore[call-overload]


def pytest_report_header(config: pytest.Config) -> str:
    """Say why an import of torch fails."""
    is_hidden = config.option.markexpr == WITHOUT_SLOW_TESTS
    return "torch is hidden: mark tests that need it as slow" if is_hidden else ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import modules of which no test is selected: imports take longest."""
    selected = config.option.markexpr
    if collection_path.suffix != ".py" or not collection_path.is_relative_to(_UNIT_TESTS):
        return None
    if selected == WITHOUT_SLOW_TESTS:
        return bool(_SLOW_MODULE.search(collection_path.read_text(encoding="utf-8"))) or None
    if selected == WITHOUT_FAST_TESTS:
        return "pytest.mark.slow" not in collection_path.read_text(encoding="utf-8") or None
    return None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what is not marked as slow, for whoever wants the others."""
    if item.path.is_relative_to(_UNIT_TESTS) and not item.get_closest_marker("slow"):
        item.add_marker("fast")
