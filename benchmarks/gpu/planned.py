"""What the planner says of every line of the GPU table; needs no GPU.

Usage: python benchmarks/gpu/planned.py [--gpu h100]
Writes benchmarks/results/gpu_planned.md.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent)]

from lines import LENGTH, Line, known_shapes, list_lines, plan_line, utilisation  # noqa: E402

from finetune_trainer.errors import UserError  # noqa: E402
from finetune_trainer.planning.throughput import GPU, GPUS  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu_planned.md"
GIB = 2**30


def row_of(line: Line, gpu: GPU) -> str:
    """Write a line as a row of the table."""
    try:
        plan = plan_line(line, gpu)
    except UserError as error:
        needed = error.message.partition("needs about ")[2].partition(" GiB")[0]
        remedies = error.message.partition(" GiB; ")[2] or error.message
        return f"| {line.name} | refused: needs {needed} | | | | {remedies} |"
    recipe = plan.recipe
    parts = " + ".join(
        f"{value / GIB:.1f} {name}"
        for name, value in recipe.memory.items()
        if name != "total" and value >= GIB / 10
    )
    copies = f", {recipe.num_replicas} copies" if recipe.num_replicas > 1 else ""
    recomputing = ", recomputing" if recipe.activation_checkpointing else ""
    return (
        f"| {line.name} | {recipe.estimated_memory_bytes / GIB:.1f} | {parts} | "
        f"{plan.rate:,.0f} | {utilisation(line, plan.rate, gpu.flops):.0%} | "
        f"micro {recipe.micro_batch_size}, {recipe.strategy}{copies}{recomputing} |"
    )


def main() -> int:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpu", choices=sorted(GPUS), default="h100")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    gpu = GPUS[arguments.gpu]
    lines = [line for line in list_lines(known_shapes(), ["ours"]) if not line.variant]
    page = "\n".join(
        [
            f"# The GPU table as planned, {date.today()}",
            "",
            f"`python benchmarks/gpu/planned.py --gpu {arguments.gpu}`, for {gpu.name} with "
            f"{gpu.memory / GIB:.1f} GiB. **Nothing here was run on a GPU.**",
            f"Rows of at most {LENGTH:,} tokens; memory is one GPU's, in GiB; tokens/s are of all "
            "GPUs, by the planner's speed model.",
            "",
            "| line | planned | of what | tokens/s | utilisation | how, or what would fit |",
            "|---|---|---|---|---|---|",
            *(row_of(line, gpu) for line in lines),
            "",
        ]
    )
    print(page)
    arguments.output.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
