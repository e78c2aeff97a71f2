"""What the tests with a real vLLM share: one run, trained for a minute and evaluated here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kit.models.base_model import NAME, ensure_model
from kit.processes.stages import Workbench

EXAMPLE = Path(__file__).parents[2] / "examples" / "01-headline-sentiment"
HEADLINES = {
    "format": "Csv",
    "columns": {"prompt": "headline", "completion": "label"},
    "template": "Is this headline positive, negative or neutral? {{ headline }}",
}
SEEDS = (1, 2)
"""The example holds out 120 rows a seed."""
NUM_QUESTIONS = 200
MAX_NEW_TOKENS = 16


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """SmolLM2 with the headlines of the first example, trained for a minute and evaluated."""
    folder = tmp_path_factory.mktemp("vllm")
    sources = []
    for seed in SEEDS:
        out = folder / f"data-{seed}"
        command = [sys.executable, EXAMPLE / "generate.py", "--out", out, "--seed", str(seed)]
        subprocess.run(command, check=True)
        for side in ("Train", "Test"):
            uri = f"file://{out}/{side.lower()}.csv"
            sources.append({"uri": uri, "side": side, **HEADLINES})
    change = {
        "model": {"name": NAME},
        "dataset": {"sources": sources},
        "method": {"adapter": {"rank": 16, "alpha": 32}},
        # In bfloat16 each kernel rounds in its own way, and free text soon differs.
        "hyperparameters": {"maxSteps": 60, "learningRate": "auto", "precision": "Float32"},
        "checkpoint": {"everySteps": 1000},
        "evaluation": {
            **{"maxSamples": NUM_QUESTIONS, "maxNewTokens": MAX_NEW_TOKENS},
            "baseline": "AsIs",
        },
    }
    bench = Workbench(folder=folder / "run", model=ensure_model(), data=folder, change=change)
    bench.run_to("prepare", "train", "evaluate", timeout=1200)
    return bench
