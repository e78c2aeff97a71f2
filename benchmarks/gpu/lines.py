"""The lines of the GPU table, and what the planner says of each without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from random_model import ROW_TOKENS, SIZES

from finetune_api.protocol.trainer import ResolvedJob, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import UserError
from finetune_trainer.estimate import choose_recipe, on_gpus
from finetune_trainer.planning.architecture import Architecture, describe_architecture
from finetune_trainer.planning.fit import Lengths, largest_batch
from finetune_trainer.planning.setup import Batch, Setup
from finetune_trainer.planning.throughput import GPU, flops_per_token, tokens_per_second
from finetune_trainer.train.recipe.planned import setup_of
from finetune_trainer.train.recipe.recipe import DataShape, Recipe

LENGTH = 2048
ROWS_PER_GPU = 8
"""Examples, or packed rows, of a GPU per optimiser step."""
METHODS = ("LoRA", "QLoRA", "Full")
PLACES = ((1, 1), (1, 8), (2, 8))
"""Nodes, and GPUs of each."""
ENGINES = ("ours", "trl", "axolotl", "unsloth")
REAL = "real"
"""Variant of the line with real weights: random ones show no fault that depends on their values."""
VARIANTS: dict[str, dict[str, Any]] = {
    "sdpa": {"attention": "SDPA"},
    "flash": {"attention": "Flash"},
    "eager": {"attention": "Eager"},
    "unfused": {"kernels": "Off"},
    "compile": {"compile": "On"},
    "checkpointing": {"activationCheckpointing": "On"},
}
"""Settings of ``hyperparameters`` that are measured apart, with LoRA on one GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of the table.

    Attributes:
        shape: Key of ``SIZES``.
        method: ``LoRA``, ``QLoRA`` or ``Full``.
        nodes: Nodes.
        gpus: GPUs of each; on a CPU one process takes the place of one.
        packed: Rows are packed to ``LENGTH`` tokens.
        engine: One of ``ENGINES``.
        variant: Key of ``VARIANTS``, or ``REAL``; empty for the defaults.
    """

    shape: str
    method: str = "LoRA"
    nodes: int = 1
    gpus: int = 1
    packed: bool = False
    engine: str = "ours"
    variant: str = ""

    @property
    def name(self) -> str:
        """Name of the line, for people and for the record of finished lines."""
        rows = "packed" if self.packed else "unpacked"
        parts = (self.shape, self.method, f"{self.nodes}x{self.gpus}", rows, self.engine)
        return " ".join((*parts, self.variant)).strip()

    def spec(self, *, steps: int, use_gpu: bool) -> dict[str, Any]:
        """Return the parts of a job that the line sets.

        All weights train with Adafactor where no other GPU holds a part of AdamW's states.
        """
        shares = self.nodes * self.gpus > 1
        return {
            "method": {
                "adapter": {"type": self.method},
                "packing": "On" if self.packed else "Auto",
            },
            "hyperparameters": {
                "maxSteps": steps,
                "maxSequenceLength": LENGTH,
                "globalBatchSize": ROWS_PER_GPU * self.nodes * self.gpus,
                **({"optimizer": "Adafactor"} if self.method == "Full" and not shares else {}),
                **VARIANTS.get(self.variant, {}),
            },
            "resources": {
                "gpusPerNode": self.gpus if use_gpu else 0,
                "nodes": self.nodes,
            },
        }


def list_lines(shapes: list[str], engines: list[str]) -> list[Line]:
    """List every line of these shapes, cheapest GPUs first, and the variants of the first shape.

    The line with real weights comes before all others.
    """
    lines = [
        Line(shape=shape, method=method, nodes=nodes, gpus=gpus, packed=packed, engine=engine)
        for (nodes, gpus), shape, method, packed, engine in product(
            PLACES, shapes, METHODS, (True, False), engines
        )
    ]
    real = Line(shape=shapes[0], variant=REAL)
    return [real, *lines, *(Line(shape=shapes[0], variant=name) for name in VARIANTS)]


def describe_shape(shape: str) -> Architecture:
    """Describe a random model as the planner reads it from its configuration."""
    values = SIZES[shape]
    kind = "qwen3_moe" if "num_experts" in values else "llama"
    return describe_architecture({"model_type": kind, "tie_word_embeddings": False, **values}, {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """The plan of a line on some GPUs.

    ``batch`` is its largest micro batch; tokens per second are estimated, over all GPUs.
    """

    recipe: Recipe
    setup: Setup
    batch: Batch
    rate: float


def plan_line(line: Line, gpu: GPU, *, steps: int = 12) -> Planned:
    """Plan a line of our own.

    Raises:
        UserError: It does not fit; the message says what would.
    """
    job, model, data = _make_job(line, steps), describe_shape(line.shape), data_shape(steps)
    recipe = choose_recipe(job, data, model, on_gpus(job, gpu))
    setup = setup_of(job, model, recipe)
    rate = tokens_per_second(
        model,
        setup,
        peak_flops=gpu.flops,
        mean_tokens=data.mean_tokens,
        tokens_per_pass=recipe.micro_batch_size * (LENGTH if line.packed else data.mean_tokens),
    )
    lengths = Lengths(
        mean=data.mean_tokens,
        longest=data.longest_tokens,
        row_limit=LENGTH if line.packed else None,
    )
    batch = largest_batch(recipe.micro_batch_size, setup, lengths)
    return Planned(recipe=recipe, setup=setup, batch=batch, rate=rate)


def strategy_of(line: Line, gpu: GPU) -> str:
    """Return how our planner shares the weights of a line, for engines that do not plan."""
    try:
        return plan_line(replace(line, engine="ours"), gpu).recipe.strategy
    except UserError:
        return "FSDP2"


def utilisation(line: Line, rate: float, peak_flops: float) -> float:
    """Return the share of the GPUs' peak that these tokens per second take.

    Counts what the training must compute: recomputed activations are no work.
    """
    setup = Setup(adapter=line.method)
    per_token = flops_per_token(describe_shape(line.shape), setup, ROW_TOKENS)
    return per_token * rate / (peak_flops * line.nodes * line.gpus)


def data_shape(steps: int) -> DataShape:
    """Return the shape of the generated rows, of which there are enough for these steps."""
    rows = 64 * steps
    return DataShape(
        num_rows=rows,
        num_tokens=rows * ROW_TOKENS,
        mean_tokens=ROW_TOKENS,
        longest_tokens=1736,
    )


def _make_job(line: Line, steps: int) -> ResolvedJob:
    spec = {
        "model": {"uri": "file:///m"},
        "dataset": {"sources": [{"uri": "file:///d"}]},
        "output": {"uri": "file:///o"},
        **line.spec(steps=steps, use_gpu=True),
    }
    job = FineTuneJob.from_wire({"metadata": {"name": "line"}, "spec": spec})
    return resolve_job(job, namespace="gpu", uid="line")


def known_shapes() -> list[str]:
    """Return the shapes of the table."""
    return [shape for shape in SIZES if shape != "tiny"]
