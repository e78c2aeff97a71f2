"""The planner's memory estimate against measured peaks, over a grid of models and settings.

Every case trains a few steps with our real trainer (TRL, PEFT, autocast, AdamW) and counts every
tensor that is alive; on a GPU torch's allocator is asked instead. Bar: the estimate is within 15 %
of the measurement and never under it by more than 5 %.

Usage: python benchmarks/trainer/memory.py [--fast] [--only PREFIX] [--recorded]

``--recorded`` trains nothing: it holds today's estimates to the peaks that the page of results has.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests"), str(Path(__file__).parent)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from finetune_trainer.model.adapters import keep_input_types  # noqa: E402
from finetune_trainer.planning.architecture import Architecture, describe_architecture  # noqa: E402
from finetune_trainer.planning.headers import Stored  # noqa: E402
from finetune_trainer.planning.memory import Memory, estimate_training, saved_bytes  # noqa: E402
from finetune_trainer.planning.setup import Batch, Setup, attention_of  # noqa: E402
from kit.models.measured_trainer import Case, make_trainer  # noqa: E402

OVER, UNDER = 1.15, 0.95
RESULT = ROOT / "benchmarks" / "results" / "memory.md"
MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A case's estimate beside its measurement, in bytes."""

    case: Case
    architecture: Architecture
    batch: Batch
    estimate: Memory
    peak: int
    saved: int

    @property
    def ratio(self) -> float:
        """Estimate over measurement."""
        return self.estimate.allocated / self.peak


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama mha": ("LlamaConfig", {"num_key_value_heads": 8}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 64}),
    "gemma2": ("Gemma2Config", {"head_dim": 64, "sliding_window": 4096}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 64, "sliding_window": 4096}),
    "phi3": ("Phi3Config", {"pad_token_id": 0}),
    "olmo2": ("Olmo2Config", {}),
    "mistral": ("MistralConfig", {}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt2": ("GPT2Config", {}),
    "opt": ("OPTConfig", {}),
}
BASE = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}


def make_model(case: Case) -> Any:
    """Build the case's model with random weights."""
    import torch
    import transformers

    if case.family == "smollm2":
        from base_model import ensure_model

        dtype = torch.bfloat16 if case.setup.bfloat16 and not case.setup.is_full else torch.float32
        return transformers.AutoModelForCausalLM.from_pretrained(
            ensure_model(), dtype=dtype, attn_implementation=case.setup.attention
        )
    name, change = FAMILIES[case.family]
    values: dict[str, Any] = {**BASE, **change, **case.size}
    if name == "GPT2Config":
        values = {
            "vocab_size": values["vocab_size"],
            "n_embd": values["hidden_size"],
            "n_layer": values["num_hidden_layers"],
            "n_head": 8,
            "n_positions": 8192,
        }
    if name == "OPTConfig":
        values["ffn_dim"] = values.pop("intermediate_size")
        values["word_embed_proj_dim"] = values["hidden_size"]
        values.pop("num_key_value_heads")
    torch.manual_seed(0)
    config = getattr(transformers, name)(**values)
    config._attn_implementation = case.setup.attention
    model = transformers.AutoModelForCausalLM.from_config(config)
    is_low = case.setup.bfloat16 and not case.setup.is_full
    return model.to(torch.bfloat16 if is_low else torch.float32)


def describe(model: Any) -> Architecture:
    """Describe a model as the planner would from its files."""
    names = {"torch.bfloat16": "BF16", "torch.float32": "F32"}
    shapes = {
        name: Stored(tuple(parameter.shape), names[str(parameter.dtype)])
        for name, parameter in model.named_parameters()
    }
    return describe_architecture(model.config.to_dict(), shapes)


def measure(case: Case) -> Outcome:
    """Train a few steps and return the peak beside the estimate."""
    import torch
    from allocations import AllocationMeter, SavedMeter

    has_gpu = torch.cuda.is_available()
    if has_gpu:
        case = replace(case, setup=replace(case.setup, use_gpu=True))
        torch.cuda.reset_peak_memory_stats()
    model = make_model(case)
    architecture = describe(model)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(case, model, Path(scratch))
        if case.setup.bfloat16:
            keep_input_types(trainer.model)
        tensors = [*model.parameters(), *model.buffers()]
        saved = SavedMeter(tensors)
        compute_loss = trainer.compute_loss

        def watched(*arguments: Any, **named: Any) -> Any:
            if not trainer.model.training:
                return compute_loss(*arguments, **named)
            with saved.hooks():
                loss = compute_loss(*arguments, **named)
            saved.close()
            return loss

        trainer.compute_loss = watched
        with AllocationMeter(tensors) as meter:
            trainer.train()
    # A GPU's allocator knows itself, rounding and all.
    peak = torch.cuda.max_memory_allocated() if has_gpu else meter.peak
    batch = Batch(rows=case.rows, longest=case.length, tokens=case.rows * case.length)
    return Outcome(
        case=case,
        architecture=architecture,
        batch=batch,
        estimate=estimate_training(architecture, case.setup, batch),
        peak=peak,
        saved=saved.largest,
    )


LORA = Setup(use_gpu=False)
FULL = Setup(use_gpu=False, adapter="Full")


def grid() -> list[Case]:
    """Return all cases: Llama in all ways and shapes, the real model, every family in four ways."""
    bare = replace(LORA, dropout=False)
    dora_ways = [
        replace(bare, adapter="DoRA", bfloat16=bfloat16, checkpointing=checkpointing)
        for bfloat16, checkpointing in ((True, False), (False, False), (True, True))
    ]
    llama_ways = [
        LORA,
        bare,
        replace(LORA, bfloat16=False),
        FULL,
        replace(FULL, bfloat16=False),
        replace(LORA, checkpointing=True),
        replace(FULL, checkpointing=True),
        replace(FULL, accumulation=True),
        replace(LORA, padding_free=False),
        replace(LORA, rank=4),
        replace(LORA, rank=128),
        replace(LORA, targets=("q_proj", "v_proj")),
        replace(LORA, attention="eager"),
        replace(LORA, adapter="DoRA"),
        *dora_ways,
        *(
            replace(way, saved_modules=saved)
            for way in (LORA, replace(LORA, bfloat16=False), replace(LORA, accumulation=True))
            for saved in (("lm_head",), ("embed_tokens", "lm_head"))
        ),
    ]
    cases = [Case(family="llama", setup=way) for way in llama_ways]
    real = [LORA, replace(LORA, bfloat16=False), replace(LORA, checkpointing=True), FULL]
    cases += [Case(family="smollm2", setup=way, rows=4, length=64) for way in real]
    cases += [
        Case(family="llama", setup=way, rows=rows, length=length)
        for rows, length in [(1, 64), (1, 1024), (16, 64)]
        for way in (LORA, FULL)
    ]
    tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "vocab_size": 512}
    wide = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 4}
    # DoRA's norms take the same for few tokens as for many.
    cases += [Case(family="llama", size=wide, setup=w, rows=1, length=64) for w in dora_ways]
    cases += [
        Case(family="llama", size=size, setup=way)
        for size in (tiny, wide, {"vocab_size": 65536})
        for way in (LORA, FULL)
    ]
    ways = [LORA, replace(bare, bfloat16=False), replace(LORA, checkpointing=True), FULL]
    return [*cases, *family_cases(ways)]


EVERY_WAY = tuple(
    replace(LORA, adapter=adapter, bfloat16=bfloat16, dropout=dropout, checkpointing=checkpointing)
    for adapter in ("LoRA", "Full")
    for bfloat16 in (True, False)
    for dropout in (True, False)
    for checkpointing in (False, True)
)


def family_cases(ways: Iterable[Setup]) -> list[Case]:
    """Return every family but Llama, in each of these ways."""
    ways = tuple(ways)
    return [
        Case(family=family, setup=_setup_of(family, way))
        for family in FAMILIES
        if family != "llama"
        for way in ways
    ]


def _setup_of(family: str, way: Setup) -> Setup:
    """Return how a family can be trained that is to be trained in some way."""
    # PEFT adapts fused experts without dropout only.
    is_plain = family == "mixtral"
    return replace(
        way,
        dropout=way.dropout and not is_plain,
        attention=attention_of(family, way.attention),
    )


def fast_cases() -> list[Case]:
    """Return the few that the test suite measures, in seconds."""
    ways = [LORA, replace(LORA, checkpointing=True), replace(LORA, dropout=False, bfloat16=False)]
    small = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3}
    return [
        *(Case(family="llama", size=small, setup=way, length=64) for way in ways),
        Case(
            family="llama",
            size={**small, "vocab_size": 16384},
            length=64,
            setup=replace(LORA, saved_modules=("embed_tokens", "lm_head")),
        ),
        Case(family="qwen3", size=small, setup=FULL, length=64),
        Case(family="gemma2", size=small, setup=_setup_of("gemma2", LORA)),
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A measured peak of the page of results, beside today's estimate.

    Attributes:
        name: Model, training and micro batch as the page names them.
        peak: Measured, bytes; the page has whole MiB.
        estimate: Today's, bytes.
    """

    name: tuple[str, str, str]
    peak: int
    estimate: int

    @property
    def ratio(self) -> float:
        """Estimate over measurement."""
        return self.estimate / self.peak


def read_recorded() -> list[Recorded]:
    """Return every row of the page of results.

    Raises:
        KeyError: A row is of no known case.
    """
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in RESULT.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    peaks = {(row[0], row[1], row[2]): int(row[3]) * MIB for row in cells if row[3].isdigit()}
    estimates = {}
    shapes: dict[tuple[str, str], Architecture] = {}
    for case in (*grid(), *family_cases(EVERY_WAY)):
        shape = shapes.setdefault((case.family, str(case.size)), shape_of(case))
        batch = Batch(rows=case.rows, longest=case.length, tokens=case.rows * case.length)
        name = (name_of(case, shape), str(case), f"{case.rows} x {case.length}")
        estimates[name] = estimate_training(shape, case.setup, batch).allocated
    return [
        Recorded(name=name, peak=peak, estimate=estimates[name]) for name, peak in peaks.items()
    ]


def shape_of(case: Case) -> Architecture:
    """Describe the case's model without making its weights."""
    import torch

    if case.family == "smollm2":
        from base_model import ensure_model
        from finetune_trainer.model.load import read_model_architecture

        return read_model_architecture(ensure_model())
    with torch.device("meta"):
        return describe(make_model(case))


def name_of(case: Case, shape: Architecture) -> str:
    """Name the case's model in a table."""
    return f"{case.family} {shape.num_parameters / 1e6:.1f}M"


def row_of(outcome: Outcome) -> str:
    """Write a case as a row of the table."""
    case, estimate = outcome.case, outcome.estimate
    saved = saved_bytes(outcome.architecture, case.setup, outcome.batch)
    parts = " + ".join(
        f"{value / MIB:.0f} {name}"
        for name, value in estimate.to_json().items()
        if name not in ("total", "overhead") and value >= MIB
    )
    return (
        f"| {name_of(case, outcome.architecture)} | {case} | "
        f"{case.rows} x {case.length} | {outcome.peak / MIB:.0f} | "
        f"{estimate.allocated / MIB:.0f} | {outcome.ratio:.3f} | "
        f"{saved / max(1, outcome.saved):.3f} | {parts} |"
    )


HEADER = (
    "| model | training | micro batch | measured peak, MiB | estimate, MiB | ratio | "
    "ratio of saved activations | of what |\n|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    """Measure the grid and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="only the cases of the test")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--recorded", action="store_true", help="hold estimates to recorded peaks")
    arguments = parser.parse_args()
    if arguments.recorded:
        return hold_to_recorded()
    print(HEADER, flush=True)
    ratios = []
    for case in fast_cases() if arguments.fast else grid():
        if not f"{case.family} {case}".startswith(arguments.only):
            continue
        outcome = measure(case)
        ratios.append(outcome.ratio)
        print(row_of(outcome), flush=True)
    low, high = min(ratios), max(ratios)
    print(
        f"\n{len(ratios)} cases, estimate over measurement {low:.3f} to {high:.3f}; bar: "
        f"{UNDER} to {OVER}; {platform.machine()}, torch {torch_version()}, {date.today()}"
    )
    return 0 if low >= UNDER and high <= OVER else 1


def hold_to_recorded() -> int:
    """Print today's estimate of every recorded case; returns the exit code."""
    rows = sorted(read_recorded(), key=lambda row: row.ratio)
    for row in rows:
        print(
            f"{row.ratio:.3f} {row.peak / MIB:.0f} {row.estimate / MIB:.0f} {', '.join(row.name)}"
        )
    low, high = rows[0].ratio, rows[-1].ratio
    print(f"\n{len(rows)} cases, estimate over recorded peak {low:.3f} to {high:.3f}")
    return 0 if low >= UNDER and high <= OVER else 1


def torch_version() -> str:
    """Return the version of torch."""
    import torch

    return str(torch.__version__)


if __name__ == "__main__":
    sys.exit(main())
