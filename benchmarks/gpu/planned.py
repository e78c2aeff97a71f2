"""What the planner says of every line of the GPU table, and the same counted; needs no GPU.

Usage: python benchmarks/gpu/planned.py [--gpu h100]
Writes benchmarks/results/gpu_planned.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "benchmarks" / "trainer")]

from counted import Moments, count_moments  # noqa: E402
from cuda_autocast import FAMILIES, WAYS, compare_layer  # noqa: E402
from lines import (  # noqa: E402
    LENGTH,
    Line,
    Planned,
    describe_shape,
    known_shapes,
    list_lines,
    plan_line,
    utilisation,
)
from random_model import config_of  # noqa: E402

from finetune_trainer.errors import UserError  # noqa: E402
from finetune_trainer.planning.fit import COMFORT, DOUBT  # noqa: E402
from finetune_trainer.planning.memory import (  # noqa: E402
    count_adapter,
    estimate_training,
    saved_bytes,
)
from finetune_trainer.planning.setup import Batch, Setup  # noqa: E402
from finetune_trainer.planning.throughput import GPU, GPUS  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu_planned.md"
GIB = 2**30
COUNTING = (
    "**Counted** are the storages of the real transformers model, PEFT's adapter and TRL's loss, "
    "run forward and backward over one micro batch of the planned size on fake tensors "
    "(`counted.py`): models of 2 and 4 layers, continued to all. *Saved* is what autograd holds "
    "after the forward pass, without weights. *Peak* is the largest moment beside weights and "
    "optimiser: activations, the head's tile, gradients.",
    "",
    "- Attention is SDPA with a mask and norms are the model's own, as this plan takes them: "
    "where it is made, nobody knows the packages of the image. Liger keeps less and is not "
    "counted.",
    "- Dropout's masks are bytes, the kernels of TRL's loss allocate as with Triton, a layer in "
    "4 bits makes its weight for each product, DDP's buckets are a second copy of the "
    "gradients. Scratch memory inside a kernel is not seen.",
    "- FSDP2's blocks are counted with their gathered bfloat16 weights. The gathered weights and "
    "the gradients on their way to other ranks are in the plan and not in the count.",
    "- The plan is above the count where FSDP2 trains all weights and recomputes: it keeps the "
    "head's gradient, which the count drops, while it is on its way to other ranks.",
    f"- A plan of more than the GPU has is tried all the same up to a factor of {DOUBT}: beyond "
    "that it is refused. Automatic choices fill at most "
    f"{COMFORT:.0%}, if anything does.",
    "- AdamW's states are two values for each trained weight, which are counted below.",
)
UNDER_AUTOCAST = (
    "The counts above run under a CPU's autocast. CUDA's computes LayerNorm and powers in float32, "
    "and each layer casts their results to bfloat16 for itself. What one layer of a small model "
    "saves per token, counted on fake tensors that name a GPU (`cuda_autocast.py`), in bytes:",
)
BY_BOUNDARIES = (
    "With varlen attention (`torch.nn.attention.varlen`, which needs no mask and keeps keys and "
    "values of their own heads), which Ampere and newer GPUs choose for adapters on joined rows; "
    "micro batch and recomputation as above:",
)


def row_of(line: Line, gpu: GPU) -> str:
    """Write a line as a row of the table."""
    try:
        plan = plan_line(line, gpu)
    except UserError as error:
        needed = error.message.partition("needs about ")[2].partition(" GiB")[0]
        remedies = error.message.partition(" GiB; ")[2] or error.message
        return f"| {line.name} | refused: needs {needed} | | | | | | {remedies} |"
    recipe = plan.recipe
    parts = " + ".join(
        f"{value / GIB:.1f} {name}"
        for name, value in recipe.memory.items()
        if name != "total" and value >= GIB / 10
    )
    copies = f", {recipe.num_replicas} copies" if recipe.num_replicas > 1 else ""
    recomputing = ", recomputing" if recipe.activation_checkpointing else ""
    share = recipe.estimated_memory_bytes / gpu.memory
    tight = f", {share:.0%} of the GPU" if share > COMFORT else ""
    return (
        f"| {line.name} | {recipe.estimated_memory_bytes / GIB:.1f} | {parts} | "
        f"{compare(line, plan)} | "
        f"{plan.rate:,.0f} | {utilisation(line, plan.rate, gpu.flops):.0%} | "
        f"micro {recipe.micro_batch_size}, {recipe.strategy}{copies}{recomputing}{tight} |"
    )


def compare(line: Line, plan: Planned) -> str:
    """Write the cells of what autograd saves, and of the peak, as planned and as counted."""
    moments = count_line(line.shape, _without_ranks(plan.setup), plan.batch)
    saved, peak = planned_bytes(line, plan)
    return " | ".join(
        f"{planned / GIB:.2f} / {counted / GIB:.2f} = {planned / counted:.2f}"
        for planned, counted in ((saved, moments.saved), (peak, moments.peak))
    )


def planned_bytes(line: Line, plan: Planned) -> tuple[int, int]:
    """Return the planned bytes of what autograd saves, and of what the count's peak holds."""
    model = describe_shape(line.shape)
    memory = estimate_training(model, plan.setup, plan.batch)
    whole = 0 if plan.setup.strategy == "FSDP2" else memory.gradients
    peak = memory.activations + memory.logits + whole
    return saved_bytes(model, plan.setup, plan.batch), peak


@cache
def count_line(shape: str, setup: Setup, batch: Batch) -> Moments:
    """Count a line's moments once for all lines that differ in nothing that is counted."""
    return count_moments(config_of(shape), setup, batch)


def _without_ranks(setup: Setup) -> Setup:
    """Return the setup without what changes nothing of the count."""
    return replace(
        setup,
        world_size=min(2, setup.world_size),
        num_nodes=1,
        num_replicas=1,
        optimizer="AdamW",
    )


def row_by_boundaries(line: Line, gpu: GPU) -> str:
    """Write what a line keeps with varlen attention, which GPUs choose where it runs."""
    plan = plan_line(line, gpu)
    plan = replace(plan, setup=replace(plan.setup, attention="flash"))
    return f"| {line.name} | {compare(line, plan)} |"


def row_under_autocast(family: str) -> str:
    """Write what a layer of a family saves under CUDA's autocast, by the ways to train it."""
    cells = []
    for setup in WAYS.values():
        planned, counted = compare_layer(family, setup)
        cells.append(f"{planned:,.0f} / {counted:,.0f} = {planned / counted:.2f}")
    return f"| {family} | {' | '.join(cells)} |"


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
    """Print and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpu", choices=sorted(GPUS), default="h100")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    page = "\n".join(write_page(arguments.gpu, GPUS[arguments.gpu]))
    print(page)
    arguments.output.write_text(page)
    return 0


def write_page(name: str, gpu: GPU) -> list[str]:
    """Return the page's lines for a kind of GPU."""
    lines = [line for line in list_lines(known_shapes(), ["ours"]) if not line.variant]
    joined = [line for line in lines if line.nodes * line.gpus == 1 and line.method == "LoRA"]
    fitting = [line for line in joined if line.shape != "llama3-70b"]
    return [
        f"# The GPU table as planned, {date.today()}",
        "",
        f"`python benchmarks/gpu/planned.py --gpu {name}`, for {gpu.name} with "
        f"{gpu.memory / GIB:.1f} GiB. **Nothing here was run on a GPU.**",
        f"Rows of at most {LENGTH:,} tokens; memory is one GPU's, in GiB; tokens/s are of all "
        "GPUs, by the planner's speed model.",
        "",
        *COUNTING,
        "",
        "| line | planned | of what | saved, planned / counted | peak, planned / counted | "
        "tokens/s | utilisation | how, or what would fit |",
        "|---|---|---|---|---|---|---|---|",
        *(row_of(line, gpu) for line in lines),
        "",
        *BY_BOUNDARIES,
        "",
        "| line | saved, planned / counted | peak, planned / counted |",
        "|---|---|---|",
        *(row_by_boundaries(line, gpu) for line in fitting),
        "",
        *UNDER_AUTOCAST,
        "",
        "| family | " + " | ".join(f"{way}, planned / counted" for way in WAYS) + " |",
        "|---|" + "---|" * len(WAYS),
        *(row_under_autocast(family) for family in FAMILIES),
        "",
        "The weights of the real models and of PEFT's adapters at the defaults, counted on the "
        "meta device, with the planner's number over the counted one.",
        "",
        "| shape | weights | planned over counted | adapter on | its weights | planned over "
        "counted |",
        "|---|---|---|---|---|---|",
        *(count_weights(shape) for shape in known_shapes()),
        "",
    ]


if __name__ == "__main__":
    sys.exit(main())
