"""Fixtures for tests on a real API server; see ``kit.cluster.devcluster``."""

from __future__ import annotations

import asyncio

import pytest


@pytest.fixture(autouse=True)
async def goodbye():
    """Let closed TLS connections end before their loop does: aiohttp does not wait for all."""
    yield
    await asyncio.sleep(0.1)
