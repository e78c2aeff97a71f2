"""Runs that resume under every strategy with four ranks on CPU. Bar: the same bytes.

Trains a tiny model undisturbed, keeps its checkpoints of three steps, and resumes a run at each.
Also compares the bytes of a checkpoint's tensors with those of trained weights and two moments of
each, which is all that resuming needs.

Usage: python benchmarks/trainer/sharding_matrix.py [--only FSDP2]
Writes benchmarks/results/sharding.md; takes some twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from safetensors.numpy import load_file  # noqa: E402
from transformers import MixtralConfig, MixtralForCausalLM  # noqa: E402

from kit.models.tiny_models import make_model  # noqa: E402
from kit.models.tiny_tokenizer import make_tokenizer  # noqa: E402
from kit.processes.stages import Workbench, write_rows  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "sharding.md"
STEPS = (1, 3, 5)
STRATEGIES: dict[str, dict[str, Any]] = {
    "DDP": {"gpusPerNode": 4, "strategy": "DDP"},
    "ZeRO2": {"gpusPerNode": 4, "strategy": "ZeRO2"},
    "ZeRO3": {"gpusPerNode": 4, "strategy": "ZeRO3"},
    "FSDP2": {"gpusPerNode": 4, "strategy": "FSDP2"},
    "FSDP2 inside nodes": {"gpusPerNode": 2, "nodes": 2, "strategy": "FSDP2"},
}
METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {"type": "LoRA"},
    "DoRA": {"type": "DoRA"},
    "LoRA and a whole norm": {"type": "LoRA", "modulesToSave": ["model.norm"]},
    "LoRA of experts": {"type": "LoRA", "dropout": "0", "targetModules": ["all-linear"]},
    "QLoRA": {"type": "QLoRA"},
    "Full": {"type": "Full"},
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method under one strategy: the steps that gave the same bytes, and what was stored."""

    method: str
    strategy: str
    same: tuple[int, ...]
    stored_bytes: int
    needed_bytes: int
    problem: str = ""


def run_line(folder: Path, model: Path, rows: Path, method: str, strategy: str) -> Line:
    """Train undisturbed, then resume at each of :data:`STEPS`."""
    change = {
        "method": {"adapter": METHODS[method]},
        "hyperparameters": {"maxSteps": 6, "microBatchSize": 1, "learningRate": "auto"},
        "checkpoint": {"everySteps": 1, "keepLast": 20},
        "resources": STRATEGIES[strategy],
    }

    def bench(name: str) -> Workbench:
        return Workbench(folder=folder / name, model=model, data=rows, change=change)

    whole, kept = bench("whole"), folder / "kept"
    try:
        digest = _train_and_keep(whole, kept)
    except AssertionError as error:
        reason = str(error).splitlines()[0][:160]
        return Line(
            method=method, strategy=strategy, same=(), stored_bytes=0, needed_bytes=0,
            problem=reason,
        )  # fmt: skip
    same = []
    for step in STEPS:
        resumed = bench(f"resumed-{step}")
        resumed.run_to("prepare")
        shutil.copytree(kept / f"step-{step}", resumed.run_folder / f"checkpoints/step-{step}")
        result = resumed.run_to("train").result
        if (result["resumedFromStep"], result["sha256"]) == (step, digest):
            same.append(step)
    final = load_file(next((whole.run_folder / "adapter").glob("*model.safetensors")))
    return Line(
        method=method,
        strategy=strategy,
        same=tuple(same),
        stored_bytes=sum(
            file.stat().st_size
            for file in (kept / f"step-{STEPS[1]}").rglob("*.safetensors")
            if not file.name.startswith("rng_state")
        ),
        needed_bytes=3 * sum(4 * tensor.size for tensor in final.values()),
    )


def _train_and_keep(whole: Workbench, kept: Path) -> str:
    whole.run_to("prepare")
    process = whole.start("train")
    while process.poll() is None:
        for step in STEPS:
            stored = whole.run_folder / f"checkpoints/step-{step}"
            if (stored / "manifest.json").exists() and not (kept / stored.name).exists():
                shutil.copytree(stored, kept / stored.name)
        time.sleep(0.005)
    ended = whole.finish(process)
    assert ended.exit_code == 0, ended.termination.get("message", ended.stderr[-500:])
    digest: str = ended.result["sha256"]
    return digest


def write_mixture(folder: Path) -> Path:
    """Write a tiny mixture of experts with the tests' tokenizer."""
    tokenizer = make_tokenizer()
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> int:
    """Run the matrix and write the page; returns 1 if a line is not the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="strategies whose name begins so")
    only = parser.parse_args().only
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        rows = write_rows(root / "rows.jsonl")
        models = {"": make_model(root / "llama"), "experts": write_mixture(root / "mixtral")}
        for strategy in STRATEGIES:
            if not strategy.startswith(only):
                continue
            for method in METHODS:
                model = models["experts" if "experts" in method else ""]
                folder = root / f"{len(lines)}"
                line = run_line(folder, model, rows, method, strategy)
                lines.append(line)
                print(json.dumps(line.__dict__), flush=True)
                shutil.rmtree(folder)
    RESULTS.write_text(render(lines))
    return 0 if all(line.same == STEPS for line in lines if not line.problem) else 1


def render(lines: list[Line]) -> str:
    """Return the page."""
    table = [
        f"| {line.strategy} | {line.method} | "
        + (
            f"refused: {line.problem} | | |"
            if line.problem
            else f"{', '.join(map(str, line.same)) or 'none'} | {line.stored_bytes:,} | "
            f"{line.needed_bytes:,} |"
        )
        for line in lines
    ]
    return (
        f"# Resuming under every strategy, {date.today()}\n\n"
        "`python benchmarks/trainer/sharding_matrix.py`: a tiny model, four ranks on CPU (gloo), "
        f"float32, six steps; runs that\nresume at steps {', '.join(map(str, STEPS))} against one "
        "that was not disturbed. Needed are trained weights and two moments of each, in float32.\n"
        "The frozen base is in no checkpoint.\n\n"
        "| strategy | method | same bytes from step | tensors of a checkpoint, bytes | needed |\n"
        "|---|---|---|---|---|\n" + "\n".join(table) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
