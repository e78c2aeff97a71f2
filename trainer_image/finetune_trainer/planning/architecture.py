"""The shape of a base model, read from ``config.json`` and the headers of its weight files.

No weights are read and nothing is guessed from file sizes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune_trainer.planning import headers
from finetune_trainer.planning.caches import CacheShape, describe_cache
from finetune_trainer.planning.headers import Stored
from finetune_trainer.planning.positions import turns_by_length

_TIED = frozenset(
    ("gpt2", "opt", "bloom", "falcon", "mpt", "gemma", "gemma2", "gemma3", "gemma3_text", "cohere")
)
"""Families whose head is the embedding unless ``config.json`` says otherwise."""
_PLAIN_MLP = frozenset(
    ("gpt2", "opt", "gpt_neox", "phi", "falcon", "bloom", "starcoder2", "mpt", "gptj", "nemotron")
)
"""Families whose MLP has no gate."""
_LAYER_NORM = _PLAIN_MLP | {"stablelm", "cohere", "cohere2", "olmo"}
_NORMS_AS_THEY_COME = frozenset(("olmo", "nemotron"))
"""Of them, families whose norms put out the type that comes in, whatever autocast does."""
_WEIGHS_WIDE = frozenset(
    ("gemma", "gemma2", "gemma3", "gemma3_text", "gpt_oss", "olmo2", "olmo3", "qwen3_next")
)
"""Families whose RMSNorm multiplies with its weight in float32."""
_FOUR_NORMS = frozenset(("gemma2", "gemma3", "gemma3_text", "glm4"))
_ONE_NORM = frozenset(("phi", "cohere", "cohere2", "gptj"))
_QK_NORM = frozenset(("qwen3", "qwen3_moe", "gemma3", "gemma3_text", "olmo2", "olmo3", "olmoe"))
_COMPOSED = frozenset(
    ("gelu_new", "gelu_fast", "gelu_accurate", "quick_gelu", "gelu_python", "relu2")
)
_ALL_EXPERTS = frozenset(("llama4", "llama4_text"))
"""Families that run every expert for every token, and weigh most by zero."""
_EXPERT_IMAGES = {"gpt_oss": 6}
"""Where autograd keeps other images than both factors and the activated one."""
_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.(.+)\.weight$")
_EXPERT = re.compile(r"(?:^|\.)experts\.")
_ATTENTION = re.compile(r"(?:^|[._])att(?:n|ention)\.")
_MLP_NAMES = ("gate_proj", "up_proj", "down_proj", "gate_up_proj")
_USUAL_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_ROUTERS = frozenset(("gate", "router", "mlp.gate", "block_sparse_moe.gate"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """A kind of linear layer that every block has.

    Attributes:
        name: Last part of its name, as ``targetModules`` says it.
        width_in: Features in.
        width_out: Features out.
        count: How many the whole model has.
        in_attention: It belongs to attention.
    """

    name: str
    width_in: int
    width_out: int
    count: int
    in_attention: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """What the memory and the time of a run depend on.

    Attributes:
        model_type: transformers' name of the family.
        num_parameters: All weights; a tied head counts once.
        stored_type: Type of most weights in the files, as safetensors names it; empty if unknown.
        is_quantized: The files hold weights in 4 or 8 bits, which a library of their own reads.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP; of one routed expert in a mixture.
        num_layers: Transformer blocks.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        head_dim: Width of a head.
        vocab_size: Rows of the embedding.
        tied: The head is the embedding.
        gated: The MLP multiplies two projections (SwiGLU, GeGLU).
        rms_norm: RMSNorm written in Python operations, else one LayerNorm kernel.
        norms_widen: Its norms put out float32 under a GPU's autocast.
        weighs_wide: Its norms multiply with their weight in float32.
        norms_per_layer: Norms over the residual stream per block.
        qk_norm: Queries and keys are normalised.
        composed_activation: The activation is several Python operations, not one kernel.
        cubes_activation: One of them is a power.
        relu: The activation is ReLU, which autograd undoes from its result.
        dropout: Residual dropout of the base model itself (GPT-2).
        attention_dropout: Its attention dropout.
        num_experts: Routed experts per block; 0 for a dense model.
        experts_per_token: Of them, how many compute for a token.
        expert_images: Images of an expert's width that autograd keeps of a token.
        shared_intermediate_size: Width of the MLP beside the routed experts, 0 if none.
        dense_layers: Blocks of a mixture that have one MLP in the place of the experts.
        dense_intermediate_size: Its width.
        num_expert_parameters: Weights of all routed experts.
        latent_attention: Queries and keys come through a low rank (DeepSeek).
        linears: Linear layers outside the routed experts.
        modules: Weights of every module outside the routed experts, by its full name.
        cache: What generation keeps of a conversation.
        turns_by_length: Rotary positions depend on the length of what is read at once.
        caps_scores: Attention's scores go through a tanh (Gemma 2).
        caps_logits: And so do the logits.
    """

    model_type: str = ""
    num_parameters: int
    stored_type: str = ""
    is_quantized: bool = False
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool = False
    gated: bool = True
    rms_norm: bool = True
    norms_widen: bool = False
    weighs_wide: bool = False
    norms_per_layer: int = 2
    qk_norm: bool = False
    composed_activation: bool = False
    cubes_activation: bool = False
    relu: bool = False
    dropout: bool = False
    attention_dropout: bool = False
    num_experts: int = 0
    experts_per_token: int = 0
    expert_images: int = 3
    shared_intermediate_size: int = 0
    dense_layers: int = 0
    dense_intermediate_size: int = 0
    num_expert_parameters: int = 0
    latent_attention: bool = False
    linears: tuple[Linear, ...] = ()
    modules: tuple[tuple[str, int], ...] = ()
    cache: CacheShape = field(default_factory=CacheShape)
    turns_by_length: bool = False
    caps_scores: bool = False
    caps_logits: bool = False

    @property
    def reads_in_one_piece(self) -> bool:
        """Whether a text cannot be read in parts: not every state can be gone on from so."""
        return self.turns_by_length or self.cache.state_layers > 0

    @property
    def attention_names(self) -> tuple[str, ...]:
        """Names of attention's linear layers that are none of an MLP's, or of experts'."""
        names = (each.name for each in self.linears if each.in_attention)
        return tuple(dict.fromkeys(name for name in names if name not in _MLP_NAMES))

    @property
    def query_width(self) -> int:
        """Channels of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Channels of all key heads."""
        return self.num_kv_heads * self.head_dim

    @property
    def num_active_parameters(self) -> int:
        """Weights that one token meets in matrix products: no embedding, only chosen experts."""
        embedding = self.vocab_size * self.hidden_size
        resting = 0
        if self.num_experts:
            share = 1 - self.experts_per_token / self.num_experts
            resting = int(self.num_expert_parameters * share)
        return self.num_parameters - resting - (0 if self.tied else embedding)


def read_architecture(folder: Path, config: Mapping[str, Any]) -> Architecture:
    """Read the shape of the model in a folder from its configuration and weight headers.

    Args:
        folder: Local model folder; without its weight files the configuration has to do.
        config: Its ``config.json``.

    Raises:
        ValueError: The configuration lacks a width, or a weight file is damaged; the message says
            which.
    """
    is_there = all(path.is_file() for path in headers.weight_files(folder))
    return describe_architecture(config, headers.read_headers(folder) if is_there else {})


def describe_architecture(config: Mapping[str, Any], stored: Mapping[str, Stored]) -> Architecture:
    """Describe a model from its configuration and, where they are at hand, its tensors.

    Args:
        config: ``config.json``; of a model for several media, the text part is taken.
        stored: Its tensors by name; empty to count from the configuration.

    Raises:
        ValueError: A width is missing.
    """
    text: Mapping[str, Any] = config.get("text_config") or config
    base = _from_config(text, config)
    if not stored:
        return _count_usual(base)
    kept = {
        name: tensor.shape
        for name, tensor in stored.items()
        if (found := _BLOCK.search(name)) is None or int(found[1]) < base.num_layers
    }
    has_head = any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in kept)
    tied = base.tied or not has_head
    packed = {name: headers.values_per_element(name, each.dtype) for name, each in stored.items()}
    sizes = {name: int(math.prod(shape) * packed[name]) for name, shape in kept.items()}
    if base.tied and has_head:
        sizes = {name: size for name, size in sizes.items() if not name.endswith("lm_head.weight")}
    return replace(
        base,
        tied=tied,
        num_parameters=sum(sizes.values()),
        stored_type=headers.usual_type(stored),
        num_expert_parameters=sum(n for name, n in sizes.items() if _EXPERT.search(name)),
        linears=_find_linears(kept, is_transposed=base.model_type == "gpt2"),
        modules=_find_modules(sizes),
    )


def _from_config(text: Mapping[str, Any], config: Mapping[str, Any]) -> Architecture:
    kind = str(text.get("model_type", config.get("model_type", "")))
    hidden = _number(text, "hidden_size", "n_embd", "d_model")
    # A state-space model has no heads; its blocks are counted as attention of a usual width.
    heads = int(_first(text, "num_attention_heads", "n_head", "n_heads") or max(1, hidden // 64))
    width = int(_first(text, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden)
    usual = "gelu_new" if kind == "gpt2" else ""
    activation = str(_first(text, "hidden_act", "activation_function") or usual)
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    dtype = _first({**config, **text}, "dtype", "torch_dtype")
    layers = _number(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    kv_heads = int(_first(text, "num_key_value_heads", "num_kv_heads") or heads)
    head_dim = int(text.get("head_dim") or hidden // heads)
    return Architecture(
        model_type=kind,
        num_parameters=0,
        stored_type=_TYPES.get(str(dtype), ""),
        is_quantized="quantization_config" in config,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=_number(text, "vocab_size"),
        tied=kind in _TIED if tied is None else bool(tied),
        gated=kind not in _PLAIN_MLP,
        rms_norm=kind not in _LAYER_NORM,
        norms_widen=kind in _LAYER_NORM - _NORMS_AS_THEY_COME,
        weighs_wide=kind in _WEIGHS_WIDE,
        norms_per_layer=4 if kind in _FOUR_NORMS else 1 if kind in _ONE_NORM else 2,
        qk_norm=kind in _QK_NORM,
        composed_activation=activation in _COMPOSED,
        cubes_activation=activation in ("gelu_new", "gelu_accurate"),
        relu=activation == "relu",
        dropout=float(_first(text, "resid_pdrop", "dropout") or 0) > 0,
        attention_dropout=float(_first(text, "attn_pdrop", "attention_dropout") or 0) > 0,
        **_describe_mixture(text, kind, width, layers),
        latent_attention=bool(text.get("kv_lora_rank")),
        cache=describe_cache(
            text, num_layers=layers, kv_width=kv_heads * head_dim, hidden_size=hidden
        ),
        turns_by_length=turns_by_length(text),
        caps_scores=bool(text.get("attn_logit_softcapping")),
        caps_logits=bool(text.get("final_logit_softcapping")),
    )


def _describe_mixture(
    text: Mapping[str, Any], kind: str, width: int, layers: int
) -> dict[str, Any]:
    """Describe the MLPs, which are of this width unless experts have one of their own."""
    experts = int(_first(text, *_EXPERT_COUNTS) or 0)
    if not experts:
        return {"intermediate_size": width}
    own = int(text.get("moe_intermediate_size") or width)
    visited = _first(text, "num_experts_per_tok", "num_experts_per_token", "moe_k")
    shared = int(text.get("n_shared_experts") or kind in _ALL_EXPERTS) * own
    return {
        "intermediate_size": own,
        "num_experts": experts,
        "experts_per_token": experts if kind in _ALL_EXPERTS else int(visited or 0),
        "expert_images": _EXPERT_IMAGES.get(kind, 3),
        "shared_intermediate_size": int(text.get("shared_expert_intermediate_size") or shared),
        "dense_layers": _count_dense(text, layers),
        "dense_intermediate_size": int(text.get("intermediate_size_mlp") or width),
    }


def _count_dense(text: Mapping[str, Any], num_layers: int) -> int:
    if isinstance(mixed := text.get("moe_layers"), list):  # of Llama 4
        return num_layers - sum(int(each) < num_layers for each in mixed)
    every = int(text.get("interleave_moe_layer_step") or 1)
    return int(text.get("first_k_dense_replace") or num_layers - num_layers // every)


def _usual_linears(model: Architecture) -> tuple[Linear, ...]:
    h, layers = model.hidden_size, model.num_layers
    found = [
        ("q_proj", h, model.query_width), ("k_proj", h, model.kv_width),
        ("v_proj", h, model.kv_width), ("o_proj", model.query_width, h),
    ]  # fmt: skip
    dense_layers, width = layers, model.intermediate_size
    if model.num_experts:
        dense_layers, width = model.dense_layers, model.dense_intermediate_size
        shared = model.shared_intermediate_size
        found += [("gate_proj", h, shared), ("up_proj", h, shared), ("down_proj", shared, h)]
    linears = [
        Linear(name=n, width_in=i, width_out=o, count=layers, in_attention=n in _USUAL_ATTENTION)
        for n, i, o in found
        if i * o
    ]
    mlp = [("gate_proj", h, width)] if model.gated else []
    mlp += [("up_proj", h, width), ("down_proj", width, h)]
    linears += [
        Linear(name=n, width_in=i, width_out=o, count=dense_layers)
        for n, i, o in mlp
        if dense_layers
    ]
    return tuple(linears)


def _count_usual(model: Architecture) -> Architecture:
    h, linears = model.hidden_size, _usual_linears(model)
    embeddings = model.vocab_size * h * (1 if model.tied else 2)
    dense = sum(each.width_in * each.width_out * each.count for each in linears)
    routers = h * model.num_experts * (model.num_layers - model.dense_layers)
    experts = 3 * model.intermediate_size * routers
    norms = h * (model.norms_per_layer * model.num_layers + 1)
    ends = {"model.embed_tokens": model.vocab_size * h, "model.norm": h}
    if not model.tied:
        ends["lm_head"] = model.vocab_size * h
    by_name = {each.name: each.width_in * each.width_out * each.count for each in linears}
    return replace(
        model,
        linears=linears,
        modules=tuple({**ends, **by_name}.items()),
        num_parameters=embeddings + dense + experts + routers + norms,
        num_expert_parameters=experts,
    )


def _find_modules(sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    found: dict[str, int] = {}
    for name, size in sizes.items():
        if not _EXPERT.search(name):
            module = name.rpartition(".")[0]
            found[module] = found.get(module, 0) + size
    return tuple(found.items())


def _find_linears(
    shapes: Mapping[str, tuple[int, ...]], *, is_transposed: bool
) -> tuple[Linear, ...]:
    counts: dict[tuple[str, int, int, bool], int] = {}
    for name, shape in shapes.items():
        found = _BLOCK.search(name)
        if found is None or len(shape) != 2 or _EXPERT.search(name):
            continue
        leaf = found[2].rsplit(".", 1)[-1]
        if leaf in _ROUTERS or "norm" in leaf:
            continue
        width_out, width_in = reversed(shape) if is_transposed else shape
        key = (leaf, width_in, width_out, _ATTENTION.search(found[2]) is not None)
        counts[key] = counts.get(key, 0) + 1
    return tuple(
        Linear(name=leaf, width_in=width_in, width_out=width_out, count=count, in_attention=attends)
        for (leaf, width_in, width_out, attends), count in counts.items()
    )


def _first(text: Mapping[str, Any], *names: str) -> Any:
    value = next((text[name] for name in names if text.get(name) is not None), None)
    # A few families give a width per layer: the widest decides what must fit.
    return max(value) if isinstance(value, list) and value else value


def _number(text: Mapping[str, Any], *names: str) -> int:
    value = _first(text, *names)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"config.json names no {names[0]}")
    return value
