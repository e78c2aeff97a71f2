"""``spec.method``: what is trained, and what it learns from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import SET_LIST, APIModel, DecimalString, Integer, Unique


class Adapter(APIModel):
    """What is trained on top of the base model."""

    type: Literal["LoRA", "DoRA", "RsLoRA", "QLoRA", "Full"] = "LoRA"
    """`LoRA`; `DoRA` (weight-decomposed); `RsLoRA` (rank-stabilised scaling); `QLoRA` (4-bit
    base, GPU only); `Full` trains all weights."""
    rank: Annotated[Integer, Field(ge=1, le=512)] = 16
    """Rank of the update matrices. 16 is the playbook's start; more only pays with much data."""
    alpha: Annotated[Integer, Field(ge=1, le=1024)] = 32
    """Scaling: the update is multiplied by alpha/rank (alpha/sqrt(rank) for RsLoRA)."""
    dropout: DecimalString = "0"
    """Dropout on the adapter's input, below 1. Without it LoRA takes less time and memory."""
    target_modules: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]],
        Field(max_length=32, json_schema_extra=SET_LIST),
        Unique,
    ] = []
    """Names of the modules that get an adapter, for example `q_proj`; `all-linear` means every
    linear layer but the output head, which loses nothing against full fine-tuning where
    attention-only does ("LoRA Without Regret", 2025). With `all-linear` the experts of a mixture
    get one too, but for those that PEFT does not reach (gpt-oss, Llama 4); `train` says so.
    `[auto]`, or none, means `all-linear`, and attention only in a mixture whose stacked experts
    `all-linear` would reach (Mixtral, Qwen3, DeepSeek): their adapters may be as large as a model.
    Write `[all-linear]` for the experts."""
    modules_to_save: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]],
        Field(max_length=32, json_schema_extra=SET_LIST),
        Unique,
    ] = []
    """Names of modules that are trained whole beside the adapter and stored in its folder, for
    example `norm`; a name means the modules of just this name. They learn in float32, whatever type
    the base model is in. Embeddings and output head of a model that ties them are refused. vLLM
    does not serve such an adapter: serve the merged model (`output.formats`)."""


class Preference(APIModel):
    """How strongly preferences pull; for the objectives `DPO`, `KTO` and `ORPO`."""

    beta: DecimalString = "0.1"
    """`DPO` and `KTO`: how firmly the tuned model is held to the base model, more is firmer.
    `ORPO`: weight of the odds ratio against the likelihood of the chosen answer."""
    desirable_weight: DecimalString = "1"
    """`KTO`: weight of the rows whose label is true."""
    undesirable_weight: DecimalString = "1"
    """`KTO`: weight of the rows whose label is false. Where one label is rarer, weights that make
    (weight x rows) of both alike, within a third, do best (Ethayarajh et al. 2024)."""


class Method(APIModel):
    """How the model is tuned."""

    objective: Literal["SFT", "DPO", "KTO", "ORPO"] = "SFT"
    """`SFT`: supervised fine-tuning on the examples. From preferences: `DPO` and `ORPO` learn from
    pairs (`prompt`, `chosen`, `rejected`), `KTO` from answers with a verdict (`prompt`,
    `completion`, `label`). `DPO` and `KTO` hold the tuned model to the base model, which is the
    same weights with the adapter switched off; `ORPO` needs no reference."""
    preference: Preference = Preference()
    """For `DPO`, `KTO` and `ORPO`."""
    loss: Literal["Auto", "Completion", "Assistant", "All"] = "Auto"
    """Which tokens count. `Completion`: the last answer only. `Assistant`: every assistant turn of
    a conversation; of a pair, whose prompt may hold earlier turns, the completion only.
    `All`: every token. `Auto`: assistant turns of conversations, completions of pairs, all of plain
    text. An answer with OpenAI's `weight: 0` is read and not learned, except by `All`; a
    conversation ends at its last answer that is learned."""
    packing: Literal["Auto", "On", "Off"] = "Auto"
    """Put several short examples into one row without letting them see each other. `Auto`: remove
    padding instead, where that is exact; it never packs. `On`: rows of `maxSequenceLength` tokens,
    worth it where most examples are much shorter. `Off`: pad."""
    adapter: Adapter = Adapter()
    """The adapter."""
