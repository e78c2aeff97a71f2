"""An agent that takes each adapter for verified: its listener, its gate and its end are real.

``python -m benchmarks.serving.agent ENGINE_PORT`` logs its ports, as the real one does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from types import SimpleNamespace
from typing import Any, cast

from finetune_trainer.serve.agent.gate import Gate
from finetune_trainer.serve.agent.keeper import Keeper
from finetune_trainer.serve.process import ProcessSettings, ServingProcess, run_process
from finetune_trainer.serve.proxy import make_session


class Trusting:
    """Stands for a keeper."""

    is_engine_hung = False
    is_ready = True

    def find(self, name: str) -> Any:
        wanted = SimpleNamespace(name=name, has_traffic=True)
        return SimpleNamespace(state="Verified", wanted=wanted, num_open=0)

    async def look(self) -> None:
        """Look at no engine."""

    def note_answer(self) -> None:
        """Note nothing: no engine is asked whether it hangs."""

    def report(self) -> bytes:
        return b"{}"

    async def read_metrics(self) -> bytes:
        return b""


class Process(ServingProcess):
    """The process."""

    def __init__(self, settings: ProcessSettings, engine_port: int) -> None:
        super().__init__(settings)
        self._engine_url = f"http://127.0.0.1:{engine_port}"

    async def run(self, stop: asyncio.Event) -> None:
        keeper = Trusting()
        async with make_session() as session:
            gate = Gate(
                session,
                cast(Keeper, keeper),
                engine_url=self._engine_url,
                tokens=lambda: self.tokens,
                count=lambda *_: None,
            )
            await self.serve(gate.handle, keeper, lambda _: None, stop)
            await gate.close()


def main() -> int:
    address = argparse.Namespace(host="127.0.0.1", port=0, report_port=0)
    settings = ProcessSettings.read(address, os.environ, linger_seconds=5.0, grace_seconds=125.0)
    return run_process(lambda: Process(settings, int(sys.argv[1])).run)


if __name__ == "__main__":
    sys.exit(main())
