"""Fixtures for the chart: a helm binary, and the chart rendered with given values."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests import HelmNotFoundError, find_helm, render_chart

Objects = list[dict[str, Any]]
Render = Callable[[dict[str, Any]], Objects]


@pytest.fixture(scope="session")
def helm() -> Path:
    try:
        return find_helm()
    except HelmNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def render(helm: Path, tmp_path: Path) -> Render:
    """Render the chart with these values; raises RenderError where helm refuses."""

    def render_values(values: dict[str, Any]) -> Objects:
        path = tmp_path / "values.yaml"
        path.write_text(yaml.safe_dump(values))
        return render_chart(["--values", str(path)], helm=helm)

    return render_values


@pytest.fixture(scope="session")
def run_helm(helm: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(helm), *arguments], capture_output=True, text=True, check=False, timeout=60
        )

    return run
