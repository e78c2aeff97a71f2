"""What the planner says of every line of the GPU table, and the weights as counted; needs no GPU.

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

from lines import (  # noqa: E402
    LENGTH,
    Line,
    describe_shape,
    known_shapes,
    list_lines,
    plan_line,
    utilisation,
)
from random_model import config_of  # noqa: E402

from finetune_trainer.errors import UserError  # noqa: E402
from finetune_trainer.planning.memory import count_adapter  # noqa: E402
from finetune_trainer.planning.setup import Setup  # noqa: E402
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


def count_weights(shape: str) -> str:
    """Count the weights of the real model, and of its adapter by PEFT, on the meta device.

    Returns:
        A row of the table, with the planner's numbers beside them.
    """
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from finetune_api.v1alpha1.spec.method import Adapter
    from finetune_trainer.model.adapters import build_lora_config, name_targets

    model = describe_shape(shape)
    adapter = name_targets(Adapter(), model)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config_of(shape))
        num_base = sum(weight.numel() for weight in base.parameters())
        lora = build_lora_config(adapter, base)
        assert lora is not None
        adapted = get_peft_model(base, lora)
    num_trained = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    targets = tuple(adapter.target_modules)
    planned = count_adapter(model, Setup(rank=adapter.rank, targets=targets))
    return (
        f"| {shape} | {num_base:,} | {model.num_parameters / num_base:.4f} | "
        f"{', '.join(targets)} | {num_trained:,} | {planned / num_trained:.4f} |"
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
            "The weights of the real models and of PEFT's adapters at the defaults, counted on the "
            "meta device, with the planner's number over the counted one.",
            "Activations are not counted at these sizes: [memory](memory.md) compares them on "
            "smaller models.",
            "",
            "| shape | weights | planned over counted | adapter on | its weights | planned over "
            "counted |",
            "|---|---|---|---|---|---|",
            *(count_weights(shape) for shape in known_shapes()),
            "",
        ]
    )
    print(page)
    arguments.output.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
