"""Runs that resume under every strategy with four ranks on CPU. Bar: the same bytes.

Trains a tiny model undisturbed, keeps its checkpoints of three steps, and resumes a run at each.
Also compares the bytes of a checkpoint's tensors with those of trained weights and two moments of
each, which is all that resuming needs.

Usage: python benchmarks/trainer/sharding_matrix.py [--only FSDP2] [--method LoRA]
    [--precision BFloat16]
Keeps its lines in benchmarks/results/sharding.json, puts those that it measures again in their
place, and writes sharding.md beside it. All lines take half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from pydantic import ValidationError  # noqa: E402
from safetensors import safe_open  # noqa: E402
from transformers import MixtralConfig, MixtralForCausalLM  # noqa: E402

from kit.models.tiny_models import make_model  # noqa: E402
from kit.models.tiny_tokenizer import make_tokenizer  # noqa: E402
from kit.processes.stages import Workbench, write_rows  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "sharding.md"
LINES = RESULTS.with_suffix(".json")
STEPS = (1, 3, 5)
UPLOADING = shutil.ignore_patterns(".*.uploading")
STRATEGIES: dict[str, dict[str, Any]] = {
    "DDP": {"gpusPerNode": 4, "strategy": "DDP"},
    "ZeRO2": {"gpusPerNode": 4, "strategy": "ZeRO2"},
    "ZeRO3": {"gpusPerNode": 4, "strategy": "ZeRO3"},
    "FSDP2": {"gpusPerNode": 4, "strategy": "FSDP2"},
    "FSDP2 inside nodes": {"gpusPerNode": 2, "nodes": 2, "strategy": "FSDP2"},
}
METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {"adapter": {"type": "LoRA"}},
    "LoRA without dropout": {"adapter": {"type": "LoRA", "dropout": "0"}},
    "DoRA": {"adapter": {"type": "DoRA"}},
    "LoRA and a whole norm": {"adapter": {"type": "LoRA", "modulesToSave": ["model.norm"]}},
    "LoRA of experts": {
        "adapter": {"type": "LoRA", "dropout": "0", "targetModules": ["all-linear"]}
    },
    "QLoRA": {"adapter": {"type": "QLoRA"}},
    "LoRA by DPO": {"objective": "DPO", "adapter": {"type": "LoRA"}},
    "Full": {"adapter": {"type": "Full"}},
}
PRECISIONS = ("Float32", "BFloat16")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method under one strategy: the steps that gave the same bytes, and what was stored."""

    method: str
    strategy: str
    same: tuple[int, ...] = ()
    stored_bytes: int = 0
    needed_bytes: int = 0
    problem: str = ""
    measured: str = ""
    precision: str = "Float32"

    @property
    def place(self) -> tuple[int, int, int]:
        """Where the line stands on the page."""
        orders = (PRECISIONS, tuple(STRATEGIES), tuple(METHODS))
        names = (self.precision, self.strategy, self.method)
        first, second, third = (o.index(n) for o, n in zip(orders, names, strict=True))
        return first, second, third


def run_line(folder: Path, model: Path, rows: Path, asked: Line) -> Line:
    """Train undisturbed, then resume at each of :data:`STEPS`; return the line with what came."""
    change = {
        "method": METHODS[asked.method],
        "hyperparameters": {
            "maxSteps": 6,
            "microBatchSize": 1,
            "learningRate": "auto",
            "precision": asked.precision,
        },
        "checkpoint": {"everySteps": 1, "keepLast": 20},
        "resources": STRATEGIES[asked.strategy],
    }

    def bench(name: str) -> Workbench:
        return Workbench(folder=folder / name, model=model, data=rows, change=change)

    whole, kept = bench("whole"), folder / "kept"
    try:
        digest = _train_and_keep(whole, kept)
    except (AssertionError, ValidationError) as error:
        refused = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        reason = refused.removeprefix("Value error, ").splitlines()[0]
        return replace(asked, problem=reason)
    same = []
    for step in STEPS:
        resumed = bench(f"resumed-{step}")
        resumed.run_to("prepare")
        shutil.copytree(kept / f"step-{step}", resumed.run_folder / f"checkpoints/step-{step}")
        result = resumed.run_to("train").result
        if (result["resumedFromStep"], result["sha256"]) == (step, digest):
            same.append(step)
    final = next((whole.run_folder / "adapter").glob("*model.safetensors"))
    return replace(
        asked,
        same=tuple(same),
        stored_bytes=sum(
            file.stat().st_size
            for file in (kept / f"step-{STEPS[1]}").rglob("*.safetensors")
            if not file.name.startswith("rng_state")
        ),
        needed_bytes=3 * 4 * _count_weights(final),
    )


def _count_weights(file: Path) -> int:
    with safe_open(file, framework="np") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118


def _train_and_keep(whole: Workbench, kept: Path) -> str:
    whole.run_to("prepare")
    process = whole.start("train")
    while process.poll() is None:
        for step in STEPS:
            stored = whole.run_folder / f"checkpoints/step-{step}"
            if (stored / "manifest.json").exists() and not (kept / stored.name).exists():
                shutil.copytree(stored, kept / stored.name, ignore=UPLOADING)
        time.sleep(0.005)
    ended = whole.finish(process)
    assert ended.exit_code == 0, ended.termination.get("message", ended.stderr[-500:])
    digest: str = ended.result["sha256"]
    return digest


def write_pairs(path: Path) -> Path:
    """Write rows with a preferred answer and another one, of uneven length."""
    pairs = (
        {"prompt": f"Word {i}?", "chosen": "ab" * (1 + i % 5), "rejected": f"cd {i}"}
        for i in range(48)
    )
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


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
    parser.add_argument("--method", action="append", choices=METHODS, help="by default all")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    asked = parser.parse_args()
    only, methods = asked.only, asked.method or list(METHODS)
    found = [
        Line(strategy=strategy, method=method, precision=asked.precision)
        for strategy in STRATEGIES
        for method in METHODS
        if strategy.startswith(only) and method in methods
    ]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        rows, pairs = write_rows(root / "rows.jsonl"), write_pairs(root / "pairs.jsonl")
        models = {"": make_model(root / "llama"), "experts": write_mixture(root / "mixtral")}
        for number, line in enumerate(found):
            model = models["experts" if "experts" in line.method else ""]
            folder, data = root / f"{number}", pairs if "DPO" in line.method else rows
            ran = run_line(folder, model, data, line)
            print(json.dumps(ran.__dict__), flush=True)
            keep(replace(ran, measured=str(date.today())))
            shutil.rmtree(folder)
    places = {line.place for line in found}
    lines = [line for line in read_lines() if line.place in places and not line.problem]
    return 0 if all(line.same == STEPS for line in lines) else 1


def read_lines() -> list[Line]:
    """Return the lines that are kept, in the order of the page."""
    kept = json.loads(LINES.read_text()) if LINES.exists() else []
    lines = [Line(**{**line, "same": tuple(line["same"])}) for line in kept]
    return sorted(lines, key=lambda line: line.place)


def keep(line: Line) -> None:
    """Put a line in the place of its earlier one, and write the page."""
    others = [each for each in read_lines() if each.place != line.place]
    LINES.write_text(json.dumps([asdict(each) for each in [*others, line]], indent=1) + "\n")
    RESULTS.write_text(render(read_lines()))


def _name_processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


def render(lines: list[Line]) -> str:
    """Return the page."""
    table = [
        f"| {line.precision} | {line.strategy} | {line.method} | "
        + (
            f"refused: {line.problem} | | |"
            if line.problem
            else f"{', '.join(map(str, line.same)) or 'none'} | {line.stored_bytes:,} | "
            f"{line.needed_bytes:,} |"
        )
        for line in lines
    ]
    return (
        f"# Resuming under every strategy, {max(line.measured for line in lines)}\n\n"
        "`python benchmarks/trainer/sharding_matrix.py`: a tiny model, four ranks on "
        f"{os.cpu_count()} CPU cores ({_name_processor()}; gloo, no GPU), "
        "float32 or bfloat16 (QLoRA: base in 4 bits), six steps; runs that\nresume at steps "
        f"{', '.join(map(str, STEPS))} against one that was not disturbed. "
        "Needed are trained weights and two moments of each, in float32.\n"
        "The frozen base is in no checkpoint. Lines that are not here were not run. "
        "Lines were measured from "
        f"{min(line.measured for line in lines)} on; `sharding.json` has the day of each.\n\n"
        "| precision | strategy | method | same bytes from step | tensors of a checkpoint, bytes | "
        "needed |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(table) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
