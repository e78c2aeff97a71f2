"""An agent process beside an engine without a model, over real sockets."""

from __future__ import annotations

import pytest

from finetune_trainer.serve.agent import keeper as keeper_module
from kit.servers.serving_agent import running_agent
from kit.servers.serving_engine import serving_engine


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look at everything often, and pause shortly."""
    monkeypatch.setattr("finetune_trainer.serve.desired.LOOK_SECONDS", 0.02)
    monkeypatch.setattr(keeper_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(keeper_module, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("finetune_trainer.serve.process.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("finetune_trainer.serve.agent.engine.TRY_PAUSE_SECONDS", 0.02)


@pytest.fixture
async def engine():
    """An engine without a model."""
    async with serving_engine() as running:
        yield running


@pytest.fixture
async def agent(tmp_path, engine):
    """An agent that unloads at once what nobody wants."""
    async with running_agent(tmp_path / "agent", engine, unload_seconds=0.0) as running:
        yield running
