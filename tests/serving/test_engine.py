"""An evaluation by a real vLLM, begun as its container begins it, says what Transformers says.

Skipped unless FINETUNE_VLLM_PYTHON names a Python with vLLM; `make vllm-test` does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.processes.stages import Workbench
from kit.servers.ports import free_port
from kit.servers.vllm_server import LEAST_EQUAL, NEEDS_VLLM, PYTHON, stand_beside

FEW = 12
"""Rows that are also asked with a prompt and for the likeliest label: 1,000 tokens each."""

pytestmark = [
    NEEDS_VLLM,
    pytest.mark.timeout(3600),
]


def evaluate(trained: Workbench, folder: Path, change: dict[str, Any]) -> Workbench:
    """Evaluate a trained run once more."""
    bench = trained.fork(folder / "run", {"evaluation": change})
    shutil.rmtree(bench.run_folder / "evaluation")
    if change.get("engine") != "VLLM":
        bench.run_to("evaluate", timeout=1200)
        return bench
    assert PYTHON is not None
    with stand_beside(PYTHON, folder / "engine", free_port()) as told:
        bench.env |= told
        ended = bench.run("evaluate", timeout=2400)
        log = (folder / "engine" / "vllm.log").read_text()
    assert ended.exit_code == 0, f"{ended.messages}\n{ended.stderr[-2000:]}\n{log[-4000:]}"
    return bench


def samples_of(bench: Workbench) -> list[dict[str, Any]]:
    lines = (bench.run_folder / "evaluation" / "samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def report_of(bench: Workbench) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((bench.run_folder / "evaluation/report.json").read_text())
    return report


def count_equal(served: Workbench, here: Workbench, side: str) -> tuple[int, int]:
    pairs = list(zip(samples_of(served), samples_of(here), strict=True))
    assert all(mine["prompt"] == theirs["prompt"] for mine, theirs in pairs)
    equal = sum(mine[side] == theirs[side] for mine, theirs in pairs)
    print(f"{side}: {equal} of {len(pairs)} equal")
    return equal, len(pairs)


def test_greedy_answers_of_base_and_tuned_model_are_those_of_transformers(
    published: Workbench, tmp_path: Path
) -> None:
    served = evaluate(published, tmp_path, {"engine": "VLLM"})
    for side in ("base", "tuned"):
        equal, number = count_equal(served, published, side)
        assert equal >= LEAST_EQUAL * number, side
    assert report_of(served)["engine"].startswith("vLLM 0.")
    losses = [
        next(s for s in report_of(bench)["result"]["scores"] if s["name"] == "loss")
        for bench in (served, published)
    ]
    for name in ("base", "tuned"):
        mine, theirs = (float(loss[name]) for loss in losses)
        assert mine == pytest.approx(theirs, rel=0.001)


def test_prompted_answers_and_likeliest_labels_are_those_of_transformers(
    published: Workbench, tmp_path: Path
) -> None:
    few = {"maxSamples": FEW, "minPrompts": FEW, "baseline": "Best"}
    here = evaluate(published, tmp_path / "here", few)
    served = evaluate(published, tmp_path / "served", {"engine": "VLLM", **few})
    for side in ("base", "tuned", "prompted", "likelihood"):
        equal, number = count_equal(served, here, side)
        assert equal >= number - 1, side
