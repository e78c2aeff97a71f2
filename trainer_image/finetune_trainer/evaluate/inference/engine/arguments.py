"""What a vLLM server is begun with, and which models it cannot hold beside each other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.model.load import read_model_architecture
from finetune_trainer.model.pair import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.headers import read_header

BASE_NAME = "base"
"""What the base model is asked by; adapters by the names they are given."""
_NOT_SERVED = frozenset({"lm_head", "experts"})
"""Modules in whose place a server cannot be trusted with an adapter: where the output head has one
it cannot tell likelihoods, and those of a mixture's experts it may drop without a word."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for. Source: vllm.config.lora.MaxLoRARanks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversing:
    """What a server must be able to do for others that ask it in conversations.

    Attributes:
        template: Chat template.
        max_tokens: Longest conversation with its answer.
    """

    template: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """What a server is to hold.

    Attributes:
        base_dir: Base model.
        adapters: Folders of adapters on it, by the names they are asked by.
        bfloat16: Type of the base weights; else float32.
        max_tokens: Longest prompt with its answer.
        chat_template: File by which conversations are written; None where nobody puts any.
    """

    base_dir: Path
    adapters: Mapping[str, Path]
    bfloat16: bool
    max_tokens: int
    chat_template: Path | None = None


def arguments_of(job: ResolvedJob, models: Models, *, port: int) -> list[str]:
    """Return what ``vllm serve`` is given.

    Args:
        job: The effective job.
        models: What is served.
        port: Where, on the loopback interface.
    """
    rank = max((_rank_of(folder) for folder in models.adapters.values()), default=1)
    modules = [
        json.dumps({"name": name, "path": str(folder)}) for name, folder in models.adapters.items()
    ]
    gpus = divide_over(job.spec.evaluation_gpus, read_model_architecture(models.base_dir))
    return [
        str(models.base_dir),
        *("--served-model-name", BASE_NAME),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "bfloat16" if models.bfloat16 else "float32"),
        *("--max-model-len", str(models.max_tokens)),
        # Greedy and nothing else, whatever the model's own configuration prefers.
        *("--generation-config", "vllm"),
        *("--enable-lora", "--max-lora-rank", str(next(r for r in _RANKS if r >= rank))),
        *("--lora-modules", *modules),
        *("--lora-target-modules", *_adapted(models.adapters.values())),
        *(("--chat-template", str(models.chat_template)) if models.chat_template else ()),
        *(("--tensor-parallel-size", str(gpus)) if gpus > 1 else ()),
        *(("--trust-remote-code",) if job.spec.model.trust_remote_code else ()),
    ]


def divide_over(num_gpus: int, model: Architecture) -> int:
    """Return how many of the GPUs a model is divided over: its heads go to them evenly."""
    heads, groups = model.num_heads, model.num_kv_heads
    fitting = (
        number
        for number in range(num_gpus, 1, -1)
        if heads % number == 0 and (groups % number == 0 or number % groups == 0)
    )
    return next(fitting, 1)


def find_problem(published: Mapping[str, Any], *, bfloat16: bool) -> str:
    """Return why a published version cannot stand beside the tuned model; empty if it can.

    Args:
        published: Its folder and how its base is loaded, as workers are told.
        bfloat16: Type of this run's base weights.
    """
    path = Path(published["folder"]) / ADAPTER_CONFIG
    if not path.exists():
        return "it is a whole model, and the engine VLLM holds one base with adapters"
    if published["quantize"] or published["bfloat16"] != bfloat16:
        return "its base was loaded in another type, and the engine VLLM holds one base"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("use_dora") or config.get("modules_to_save"):
        return "its adapter is of a kind that vLLM does not serve (DoRA, or modulesToSave)"
    parts = {part for path in _changed(path.parent) for part in path.split(".")}
    if found := sorted(_NOT_SERVED & parts):
        return f"its adapter changes {found[0]}, which the engine VLLM cannot be asked with"
    return ""


def _adapted(folders: Iterable[Path]) -> list[str]:
    """Return the names of the modules that adapters change.

    vLLM makes room in all modules it could, the output head among them, unless it is told: and
    where the head has room it cannot tell the likelihoods of a prompt (0.32: the server dies).
    """
    paths = (path for folder in folders for path in _changed(folder))
    return sorted({path.rpartition(".")[2] for path in paths})


def _changed(adapter: Path) -> set[str]:
    """Return the paths of the modules that an adapter changes."""
    return {path.split(".lora_")[0] for path in read_header(adapter / ADAPTER_WEIGHTS)}


def _rank_of(folder: Path) -> int:
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
