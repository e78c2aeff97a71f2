"""Ranks of one training on this machine's CPU, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from kit.servers.ports import free_port


def run_ranks(module: str, *arguments: str, num_ranks: int = 2) -> list[Any]:
    """Run a module in every rank; return the JSON of the last line that each prints."""
    env = {
        **os.environ,
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())},
        **{"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)},
        **{"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(num_ranks)
    ]
    printed = [rank.communicate(timeout=600)[0] for rank in ranks]
    assert not any(rank.returncode for rank in ranks)
    return [json.loads(text.splitlines()[-1]) for text in printed]
