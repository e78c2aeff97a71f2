"""vLLM serves what was published, unchanged, and answers what our evaluation reported.

Skipped unless FINETUNE_VLLM_PYTHON names a Python with vLLM; `make vllm-test` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kit.models.base_model import NAME
from kit.processes.stages import Workbench
from kit.servers.vllm_server import LEAST_EQUAL, NEEDS_VLLM, PYTHON, VllmServer, serve

pytestmark = [
    NEEDS_VLLM,
    # Training, evaluations and vLLM itself, in float32.
    pytest.mark.timeout(3600),
]


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
    assert len(samples) == published.spec()["evaluation"]["maxSamples"]
    assert len({sample["tuned"] for sample in samples}) > 1, "an adapter that says one thing only"
    answers = server.ask_all(
        "tuned",
        [sample["prompt"] for sample in samples],
        max_tokens=published.spec()["evaluation"]["maxNewTokens"],
    )
    differing = [
        (sample["tuned"], answer)
        for sample, answer in zip(samples, answers, strict=True)
        if sample["tuned"] != answer
    ]
    print(f"{len(samples) - len(differing)} of {len(samples)} greedy answers are equal")
    assert len(differing) <= (1 - LEAST_EQUAL) * len(samples), differing
