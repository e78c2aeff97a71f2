"""What all tests share, and which of them are slow."""

from __future__ import annotations

import re
import signal
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import pytest

import kit.settings  # noqa: F401
from kit import selection

# A fixture that is imported into several conftest files is set up once in each. Idle clusters
# compute, and a host bears one node.
from kit.cluster.devcluster import (  # noqa: F401
    base_image,
    control_plane,
    control_plane_factory,
    kueue,
    namespace,
    node_cluster,
    private_control_plane,
    project_images,
    shared_control_planes,
)

WITHOUT_SLOW_TESTS = "not slow"
"""What `make test-fast` selects of the unit tests. `make test` runs them, as it does."""
_UNIT_TESTS = Path(__file__).parent / "unit"
_SLOW_MODULE = re.compile(r"^pytestmark = (\[[^\]]*)?pytest\.mark\.slow\b", re.MULTILINE)


class _FinderWithoutTorch:
    """Finds modules as on a machine that has no torch."""

    def find_spec(self, name: str, *others: Any) -> ModuleSpec | None:
        return None if name == "torch" else PathFinder.find_spec(name, *others)

    def __getattr__(self, name: str) -> Any:
        return getattr(PathFinder, name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose a suite."""
    selection.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Choose the suite, let Ctrl-C reach what tests start, and hide torch from fast tests.

    A shell that starts a command in the background ignores Ctrl-C there, and children inherit it.
    A test that imports hidden torch fails. The import takes as long as some hundred fast tests.
    """
    selection.register(config)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
    if collection_path.suffix != ".py" or not collection_path.is_relative_to(_UNIT_TESTS):
        return None
    if config.option.markexpr == WITHOUT_SLOW_TESTS:
        return bool(_SLOW_MODULE.search(collection_path.read_text(encoding="utf-8"))) or None
    if config.option.suite and "quick" not in config.option.suite:
        return "pytest.mark.slow" not in collection_path.read_text(encoding="utf-8") or None
    return None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what is not marked as slow, for whoever wants the others."""
    if item.path.is_relative_to(_UNIT_TESTS) and not item.get_closest_marker("slow"):
        item.add_marker("fast")
