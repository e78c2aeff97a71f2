"""The engine ends at once when it is stopped while it loads its model."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator

import pytest

from finetune_trainer.serve.engine import server


@pytest.fixture
def ignored() -> Iterator[None]:
    """Leave SIGTERM without effect, as it is for process 1 of a container."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("ignored")
def test_an_engine_that_loads_its_model_ends_at_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_serve", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as caught:
        server.run(argparse.Namespace())
    assert caught.value.code == 0
