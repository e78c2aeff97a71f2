"""A tuned tiny model whose answers differ from the base's, behind the engine of this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from finetune_trainer.serve.engine.model import ServedModel
from finetune_trainer.serve.engine.routes import make_app
from finetune_trainer.serve.engine.worker import Worker
from kit.models.tiny_models import make_eager_model
from kit.processes.stages import Workbench

CONTEXT = 512
NAME = "default.tiny-v1"


@pytest.fixture(scope="package")
def learned(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Workbench:
    """A run that trained long enough to answer in colours, and its evaluation."""
    folder = tmp_path_factory.mktemp("learned")
    change = {"hyperparameters": {"maxSteps": 60}, "checkpoint": {"everySteps": 1000}}
    model = make_eager_model(folder / "model")
    bench = Workbench(folder=folder / "run", model=model, data=rows, change=change)
    bench.run_to("prepare", "train", "evaluate")
    return bench


@pytest.fixture(scope="package")
def worker(learned: Workbench) -> Iterator[Worker]:
    import torch

    torch.set_num_threads(1)
    model = ServedModel(learned.model, name="base", dtype=torch.float32, max_adapters=3)
    worker = Worker(model)
    worker.load(NAME, learned.run_folder / "adapter").result(60)
    yield worker
    worker.stop()


@pytest.fixture
async def client(worker: Worker) -> AsyncIterator[TestClient[Any, Any]]:
    app = make_app(worker, context=CONTEXT, version={"engine": "Transformers"})
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.fixture
def body() -> Callable[..., dict[str, Any]]:
    """Make bodies of greedy requests."""

    def make(**fields: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": "What colour is thing 3 red?"}]
        return {
            "model": NAME,
            "messages": messages,
            "temperature": 0,
            "max_tokens": 8,
            **fields,
        }

    return make
