"""Fixtures of the trainer tests: a tiny model, rows, and a workbench that runs stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.models.tiny_models import make_model
from kit.processes.stages import Workbench, write_rows
from kit.servers.seaweedfs import s3  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path, rows: Path) -> Callable[..., Workbench]:
    """Make workbenches; changes are merged into the spec."""
    return workbenches(tmp_path, tiny_model, rows)


@pytest.fixture(scope="module")
def bench_of_module(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows: Path
) -> Callable[..., Workbench]:
    """The same for runs that several tests of a module look at."""
    return workbenches(tmp_path_factory.mktemp("shared"), tiny_model, rows)


def workbenches(folder: Path, model: Path, data: Path) -> Callable[..., Workbench]:
    """Return a maker of workbenches below ``folder``."""
    count = iter(range(1000))

    def make(change: dict[str, Any] | None = None, **settings: Any) -> Workbench:
        values = {"model": model, "data": data, **settings}
        return Workbench(folder=folder / f"run-{next(count)}", change=change or {}, **values)

    return make


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows: Path
) -> tuple[Workbench, dict[str, Any]]:
    """One run of all stages with nothing in its way, and its train result.

    As plain processes: other runs of the same job, forked with their libraries imported, must end
    with the same bytes.
    """
    folder = tmp_path_factory.mktemp("undisturbed")
    workbench = Workbench(folder=folder, model=tiny_model, data=rows, is_plain=True)
    workbench.run_to("prepare")
    result = workbench.run_to("train").result
    workbench.run_to("evaluate")
    return workbench, result
