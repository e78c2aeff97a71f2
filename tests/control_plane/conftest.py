"""Fixtures for tests on a real API server; see ``kit.cluster.devcluster``."""

from __future__ import annotations

import asyncio

import pytest

from kit.cluster.devcluster import (
    control_plane,
    control_plane_factory,
    namespace,
    private_control_plane,
)

__all__ = ["control_plane", "control_plane_factory", "namespace", "private_control_plane"]


@pytest.fixture(autouse=True)
async def goodbye():
    """Let closed TLS connections end before their loop does: aiohttp does not wait for all."""
    yield
    await asyncio.sleep(0.1)
