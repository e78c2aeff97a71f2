"""Several LoRA adapters on one frozen base in one process, against the same adapters trained alone.

Three ways to train k adapters: together (one forward pass of k micro batches, the base once, the
adapters as batched products), one after the other, and side by side in k processes. The adapters
have an optimiser, a learning rate, a gradient norm and rows of their own. Every adapter's losses
must be those of its solo run, which is PEFT's own layer.

Rows have one length when time is measured: that favours the joint run, whose micro batch would
otherwise be padded to the longest of k times as many rows.

Usage: python benchmarks/trainer/several_adapters.py [--model smollm2|tiny] [--check-only]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests"), str(Path(__file__).parent)]

COUNTS, RANKS = (1, 2, 4, 8), (8, 16)
ALPHA = 32
GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One measurement.

    Attributes:
        model: Folder of the base.
        count: Adapters in this process.
        rank: Rank of each.
        first: Number of the first adapter; it decides seed, learning rate and rows.
        rows: Rows in a micro batch of one adapter.
        tokens: Length of a row; 0 takes uneven ones, padded.
        steps: Measured steps, after one that is not.
        dtype: Of the base; adapters are float32.
        threads: Of the process.
    """

    model: str
    count: int
    rank: int
    first: int = 0
    rows: int = 8
    tokens: int = 128
    steps: int = 3
    dtype: str = "bfloat16"
    threads: int = 1


def make_shared_linear() -> type:
    """Return the layer class; a function, for torch is imported late."""
    import torch
    from torch import nn

    class SharedLinear(nn.Module):
        """A frozen linear layer with k adapters; rows come in k groups of equal size."""

        def __init__(self, base: nn.Linear, count: int, rank: int) -> None:
            super().__init__()
            self.base = base
            self.scale = ALPHA / rank
            self.down = nn.Parameter(torch.zeros(count, rank, base.in_features))
            self.up = nn.Parameter(torch.zeros(count, base.out_features, rank))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            grouped = x.reshape(len(self.down), -1, x.shape[-1]).to(self.down.dtype)
            hidden = torch.bmm(grouped, self.down.transpose(1, 2))
            added = torch.bmm(hidden, self.up.transpose(1, 2)) * self.scale
            result: torch.Tensor = self.base(x)
            return (result + added.view_as(result)).to(result.dtype)

    return SharedLinear


def load_base(setting: Setting) -> Any:
    """Load the frozen base."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(setting.threads)
    model = AutoModelForCausalLM.from_pretrained(
        setting.model, dtype=getattr(torch, setting.dtype), attn_implementation="sdpa"
    )
    return model.requires_grad_(False).train()


def load_solo(setting: Setting, number: int) -> Any:
    """Load the base with one adapter of PEFT; the seed decides its weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = load_base(setting)
    torch.manual_seed(number)
    config = LoraConfig(r=setting.rank, lora_alpha=ALPHA, target_modules="all-linear")
    get_peft_model(model, config)  # puts its layers into the model
    return model.train()


def initial_weights(setting: Setting) -> list[dict[str, Any]]:
    """Return the weights that PEFT begins each adapter with, by the name of the layer."""
    found = []
    for number in numbers(setting):
        model = load_solo(setting, number)
        found.append(
            {
                name.removesuffix(".lora_A.default.weight"): weight.detach().clone()
                for name, weight in model.named_parameters()
                if name.endswith(".lora_A.default.weight")
            }
        )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The part of stacked weights that is one adapter's, as a parameter that shares its memory."""

    stacked: Any
    number: int
    view: Any

    def take_gradient(self) -> None:
        """Let the view have its part of the gradient."""
        self.view.grad = self.stacked.grad[self.number]


def load_together(setting: Setting) -> tuple[Any, list[list[Slice]]]:
    """Load the base with k adapters; returns it and the weights of each adapter.

    An optimiser that steps on the views of one adapter steps this adapter alone.
    """
    import torch
    from torch import nn

    weights = initial_weights(setting)
    model = load_base(setting)
    layer_class = make_shared_linear()
    slices: list[list[Slice]] = [[] for _ in range(setting.count)]
    for name in weights[0]:
        parent, _, child = name.rpartition(".")
        layer = layer_class(model.get_submodule(name), setting.count, setting.rank)
        setattr(model.get_submodule(parent), child, layer)
        with torch.no_grad():
            layer.down.copy_(torch.stack([each[name] for each in weights]))
        for number, mine in enumerate(slices):
            mine += [
                Slice(stacked=each, number=number, view=nn.Parameter(each.data[number]))
                for each in (layer.down, layer.up)
            ]
    return model, slices


def numbers(setting: Setting) -> range:
    """Return the numbers of the adapters of this process."""
    return range(setting.first, setting.first + setting.count)


def make_optimizers(weights: Sequence[Sequence[Any]], first: int) -> list[Any]:
    """Return an optimiser for each adapter, with a learning rate of its own."""
    import torch

    return [
        torch.optim.AdamW(each, lr=2e-4 * (1 + number), weight_decay=0.0)
        for number, each in enumerate(weights, start=first)
    ]


def batches(setting: Setting, number: int) -> Iterator[list[list[int]]]:
    """Yield the micro batches of an adapter without end: rows of token ids."""
    from rows import chat_rows
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    texts = [
        f"{row['prompt'][0]['content']} {row['completion'][0]['content']}"
        for row in chat_rows(64, seed=number)
    ]
    ids = [tokenizer(text)["input_ids"][:256] for text in texts]
    if setting.tokens:
        stream = [token for row in ids for token in row]
        size = setting.tokens
        ids = [stream[at : at + size] for at in range(0, len(stream) - size, size)]
    while True:
        for at in range(0, len(ids) - setting.rows + 1, setting.rows):
            yield ids[at : at + setting.rows]


def collate(rows: Sequence[Sequence[int]]) -> tuple[Any, Any, Any]:
    """Return ids, mask and labels, padded at the end to the longest row."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask, ids.masked_fill(mask == 0, -100)


def losses_of(model: Any, batch: tuple[Any, Any, Any], count: int) -> list[Any]:
    """Return the mean loss of each adapter's rows; the head is computed group by group, twice."""
    from torch.nn import functional
    from torch.utils.checkpoint import checkpoint

    ids, mask, labels = batch
    hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    def loss(states: Any, targets: Any) -> Any:
        logits = model.lm_head(states[:, :-1]).float()
        return functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten())

    return [
        checkpoint(loss, states, targets, use_reentrant=False)
        for states, targets in zip(hidden.chunk(count), labels.chunk(count), strict=True)
    ]


def step(
    model: Any,
    rows: list[list[list[int]]],
    optimizers: Sequence[Any],
    slices: Sequence[Sequence[Slice]],
) -> list[float]:
    """Train one step of every adapter of this process; returns the loss of each."""
    import torch

    losses = losses_of(model, collate([row for mine in rows for row in mine]), len(rows))
    sum(losses).backward()
    for each in (each for mine in slices for each in mine):
        each.take_gradient()
    for optimizer in optimizers:
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for parameter in model.parameters():
        parameter.grad = None
    return [loss.item() for loss in losses]


def train(setting: Setting, *, is_solo: bool) -> Iterator[tuple[list[float], int]]:
    """Train without end; yields after each step the losses and the tokens it read."""
    slices: list[list[Slice]] = []
    if is_solo:
        model = load_solo(setting, setting.first)
        weights = [[p for p in model.parameters() if p.requires_grad]]
    else:
        model, slices = load_together(setting)
        weights = [[each.view for each in mine] for mine in slices]
    optimizers = make_optimizers(weights, setting.first)
    streams = [batches(setting, number) for number in numbers(setting)]
    while True:
        rows = [next(stream) for stream in streams]
        tokens = sum(len(row) for mine in rows for row in mine)
        yield step(model, rows, optimizers, slices), tokens


def check(model: str, count: int, rank: int, steps: int) -> float:
    """Return the largest difference of a loss from that of the adapter's solo run."""
    common = {
        "model": model, "rank": rank, "rows": 4, "tokens": 0, "dtype": "float32",
        "threads": os.cpu_count() or 1,
    }  # fmt: skip
    together = train(Setting(count=count, **common), is_solo=False)  # type: ignore[arg-type]
    joint = [next(together)[0] for _ in range(steps)]
    worst = 0.0
    for number in range(count):
        run = train(Setting(count=1, first=number, **common), is_solo=True)  # type: ignore[arg-type]
        alone = [next(run)[0][0] for _ in range(steps)]
        assert alone[0] != alone[-1], "nothing was learned"
        worst = max([worst, *(abs(a - b[number]) for a, b in zip(alone, joint, strict=True))])
    return worst


# ---- one process of a measurement ----------------------------------------------------------------


def run_process(setting: Setting, *, is_solo: bool) -> None:
    """Train one step, say that it is done, wait for a line, train and tell the time."""
    run = train(setting, is_solo=is_solo)
    next(run)
    print("ready", flush=True)
    sys.stdin.readline()
    begin, busy = time.monotonic(), time.process_time()
    tokens = sum(next(run)[1] for _ in range(setting.steps))
    told = {
        "begin": begin,
        "end": time.monotonic(),
        "busy": time.process_time() - busy,
        "tokens": tokens,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(told), flush=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What processes that ran at once came to.

    Attributes:
        rate: Tokens a second, all together.
        per_cpu: Tokens a second of CPU time, which a machine with other work disturbs less.
        peak: Bytes of all of them, with what they share counted in each.
        start: Seconds to the end of the first step.
    """

    rate: float
    per_cpu: float
    peak: int
    start: float


def measure(settings: Sequence[Setting], *, is_solo: bool) -> Measured:
    """Run processes side by side; all begin to be measured at once."""
    flag = "--solo" if is_solo else "--together"
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, flag, json.dumps(asdict(setting))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(setting.threads), "HF_HUB_OFFLINE": "1"},
        )
        for setting in settings
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "a process failed: run it by hand"
    start = time.monotonic() - began
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [json.loads(process.communicate()[0]) for process in processes]
    seconds = max(each["end"] for each in told) - min(each["begin"] for each in told)
    return Measured(
        rate=sum(each["tokens"] for each in told) / seconds,
        per_cpu=sum(each["tokens"] for each in told) / sum(each["busy"] for each in told),
        peak=sum(each["peak"] for each in told),
        start=start,
    )


def compare(model: str, *, steps: int, dtype: str) -> None:
    """Print the table of a model."""
    cores = os.cpu_count() or 1
    print(
        "| rank | adapters | one after the other | side by side | together | ratio to the better |"
    )
    print("|---|---|---|---|---|---|")
    for rank in RANKS:
        common = {"model": model, "rank": rank, "steps": steps, "dtype": dtype}
        alone = None
        for count in COUNTS:
            # Measured anew beside each: a machine that slows down favours none.
            alone = measure([Setting(count=1, threads=cores, **common)], is_solo=True)  # type: ignore[arg-type]
            threads = max(1, cores // count)
            beside = alone if count == 1 else measure(
                [
                    Setting(count=1, first=number, threads=threads, **common)  # type: ignore[arg-type]
                    for number in range(count)
                ],
                is_solo=True,
            )  # fmt: skip
            joint = measure([Setting(count=count, threads=cores, **common)], is_solo=False)  # type: ignore[arg-type]
            cells = [
                f"{each.rate:,.0f} / {each.per_cpu:,.0f}, {each.peak / GIB:.2f} GiB"
                for each in (alone, beside, joint)
            ]
            ratio = joint.rate / max(alone.rate, beside.rate)
            print(f"| {rank} | {count} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)
        assert alone is not None
        print(
            f"a solo run of rank {rank} is at its first step after {alone.start:.1f} s", flush=True
        )


def main() -> None:
    """Check the losses, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["smollm2", "tiny"], default="smollm2")
    parser.add_argument("--steps", type=int, default=3, help="measured steps")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--check-only", action="store_true", help="compare losses, measure no time")
    parser.add_argument("--no-check", action="store_true", help="measure time only")
    parser.add_argument("--solo", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--together", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.solo or arguments.together:
        setting = Setting(**(arguments.solo or arguments.together))
        run_process(setting, is_solo=arguments.solo is not None)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.model == "tiny":
            from kit.models.tiny_models import make_eager_model

            folder = str(make_eager_model(Path(scratch)))
        else:
            from base_model import ensure_model

            folder = str(ensure_model())
        if not arguments.no_check:
            steps, count = (20, 8) if arguments.model == "tiny" else (4, 2)
            for rank in RANKS:
                worst = check(folder, count, rank, steps)
                print(f"rank {rank}: {count} adapters, {steps} steps, largest difference of a loss "
                      f"from the solo run's {worst:.1e}", flush=True)  # fmt: skip
        if not arguments.check_only:
            compare(folder, steps=arguments.steps, dtype=arguments.dtype)
    print(f"{os.cpu_count()} cores, {date.today()}")


if __name__ == "__main__":
    main()
