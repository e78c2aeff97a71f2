"""vLLM serves what was published, unchanged, and answers what our evaluation reported.

Skipped unless vLLM is installed beside the project: `make vllm-test` installs it and runs this.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from base_model import NAME, ensure_model
from support.stages import Workbench
from support.vllm_server import VllmServer, serve
from vllm_venv import find_python

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
LEAST_EQUAL = 0.99

PYTHON = find_python()
pytestmark = [
    pytest.mark.skipif(
        PYTHON is None,
        reason="vLLM is not installed: make vllm-test, or set FINETUNE_VLLM_PYTHON to a Python "
        "with it",
    ),
    # Training, two evaluations and vLLM itself, in float32 where the processor has no bfloat16.
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
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
        "hyperparameters": {"maxSteps": 60, "learningRate": "auto", "precision": "Auto"},
        "checkpoint": {"everySteps": 1000},
        "evaluation": {"maxSamples": NUM_QUESTIONS, "maxNewTokens": MAX_NEW_TOKENS},
    }
    bench = Workbench(folder=folder / "run", model=ensure_model(), data=folder, change=change)
    bench.run_to("prepare", "train", "evaluate", timeout=1200)
    return bench


@pytest.fixture(scope="module")
def server(published: Workbench) -> Iterator[VllmServer]:
    assert PYTHON is not None
    adapter = published.run_folder / "adapter"
    record = json.loads((adapter / "run.json").read_text())
    with serve(
        PYTHON,
        published.model,
        {"tuned": adapter},
        name=NAME,
        dtype="bfloat16" if record["recipe"]["bfloat16"] else "float32",
        log=published.folder / "vllm.log",
    ) as running:
        yield running


def test_greedy_answers_are_those_of_the_evaluation(
    published: Workbench, server: VllmServer
) -> None:
    lines = (published.run_folder / "evaluation" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == NUM_QUESTIONS
    assert len({sample["tuned"] for sample in samples}) > 1, "an adapter that says one thing only"
    answers = server.ask_all(
        "tuned", [sample["prompt"] for sample in samples], max_tokens=MAX_NEW_TOKENS
    )
    differing = [
        (sample["tuned"], answer)
        for sample, answer in zip(samples, answers, strict=True)
        if sample["tuned"] != answer
    ]
    print(f"{NUM_QUESTIONS - len(differing)} of {NUM_QUESTIONS} greedy answers are equal")
    assert len(differing) <= (1 - LEAST_EQUAL) * NUM_QUESTIONS, differing
