"""How a model is trained, as far as its memory depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_trainer.planning.experts import reaches_experts

FLOAT32 = 4
BFLOAT16 = 2
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in 4 bits: its half byte, a byte of scale per 64, a float32 per 256 scales.

Source: Dettmers et al. 2023, "QLoRA" (arXiv 2305.14314), section 3, double quantisation.
"""
MASTER_STRATEGIES = ("ZeRO2", "ZeRO3")
"""DeepSpeed's strategies, which keep float32 copies of trained weights."""
WITHOUT_SDPA = frozenset(
    ("gpt_oss", "gemma2", "vaultgemma", "granite_swa", "granitemoe_swa", "mimo_v2_flash", "bloom",
     "mpt", "gptj", "codegen", "gpt_neo")
)  # fmt: skip
"""Families of which transformers has no SDPA: their attention is written out.

Source: transformers, ``_supports_sdpa`` of their classes.
"""


def attention_of(model_type: str, expected: str) -> str:
    """Return the attention of a family if the fastest one is loaded.

    ``expected`` is what others load.
    """
    is_written_out = expected in ("sdpa", "varlen") and model_type in WITHOUT_SDPA
    return "eager" if is_written_out else expected


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """How a model is trained, as far as memory depends on it.

    Attributes:
        adapter: ``LoRA``, ``DoRA``, ``RsLoRA``, ``QLoRA`` or ``Full``.
        rank: Of the adapter.
        targets: Names of the adapted modules, or ``all-linear``.
        saved_modules: Names of modules that are trained whole beside the adapter.
        dropout: The adapter drops inputs.
        bfloat16: Compute in bfloat16 (by autocast over float32 weights for ``Full``).
        checkpointing: Recompute activations.
        attention: ``sdpa``, ``eager`` or ``flash``.
        padding_free: A micro batch is one row.
        accumulation: More than one backward pass per step.
        strategy: ``DDP``, ``ZeRO2``, ``ZeRO3`` or ``FSDP2``.
        optimizer: ``AdamW``, ``AdamW8bit`` or ``Adafactor``.
        world_size: Ranks.
        num_nodes: Nodes that the ranks run on.
        num_replicas: Under FSDP2, copies of the weights, each sharded by ranks of its own.
        use_gpu: Ranks run on GPUs.
        is_fused: Norms and gated activations are Liger's.
    """

    adapter: str = "LoRA"
    rank: int = 16
    targets: tuple[str, ...] = ("all-linear",)
    saved_modules: tuple[str, ...] = ()
    dropout: bool = True
    bfloat16: bool = True
    checkpointing: bool = False
    attention: str = "sdpa"
    padding_free: bool = True
    accumulation: bool = False
    strategy: str = "DDP"
    optimizer: str = "AdamW"
    world_size: int = 1
    num_nodes: int = 1
    num_replicas: int = 1
    use_gpu: bool = True
    is_fused: bool = False

    @property
    def is_full(self) -> bool:
        """Whether all weights are trained."""
        return self.adapter == "Full"

    @property
    def num_shards(self) -> int:
        """Ranks that hold one copy of the weights together, where the strategy shards them."""
        return self.world_size // self.num_replicas

    @property
    def value_bytes(self) -> int:
        """Bytes of a value that the model computes with."""
        return BFLOAT16 if self.bfloat16 else FLOAT32

    @property
    def casts_weights(self) -> bool:
        """Whether autocast makes bfloat16 copies of float32 weights: FSDP2 gathers such copies."""
        return self.is_full and self.bfloat16 and self.strategy != "FSDP2"

    @property
    def stream_bytes(self) -> int:
        """Bytes of a value between two blocks, which has the type of the norms' weights."""
        return FLOAT32 if self.casts_weights else self.value_bytes

    @property
    def copies_inputs(self) -> bool:
        """Whether each adapted layer keeps an input of its own, which ``keep_input_types`` spares.

        Dropout, DoRA's norms and 4-bit layers on CPUs need one.
        """
        is_widened = self.adapter == "DoRA" or (self.adapter == "QLoRA" and not self.use_gpu)
        return self.dropout or (self.bfloat16 and is_widened)

    @property
    def widens_on_gpu(self) -> bool:
        """Whether a GPU's autocast computes LayerNorm and powers in float32; a CPU's does not.

        DeepSpeed runs without autocast. Source: ``ATen/autocast_mode.h``, ``AT_FORALL_FP32``.
        """
        return self.bfloat16 and self.use_gpu and self.strategy not in MASTER_STRATEGIES

    @property
    def whole_bytes(self) -> int:
        """Bytes of a weight of a module that is trained whole beside an adapter."""
        return FLOAT32 if trains_in_float32(self.adapter, self.strategy) else self.value_bytes

    @property
    def noise_bytes(self) -> int:
        """Bytes per element of a dropout mask: CPUs keep the float32 noise, GPUs a bool."""
        return 1 if self.use_gpu else FLOAT32


def trains_in_float32(adapter: str, strategy: str) -> bool:
    """Whether weights that are trained beside a frozen base are held in float32.

    DeepSpeed keeps float32 copies of its own. FSDP2 takes one type, and 4-bit weights that it can
    shard are stored as bfloat16.
    """
    if strategy in MASTER_STRATEGIES:
        return False
    return not (strategy == "FSDP2" and adapter == "QLoRA")


def drops_inputs(dropout: str, targets: tuple[str, ...], *, model_type: str) -> bool:
    """Whether the adapter drops inputs: adapters of fused experts know no dropout."""
    return float(dropout) > 0 and not reaches_experts(model_type, targets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The largest micro batch of a run: examples, longest and all tokens.

    All tokens include padding unless the batch is padding-free.
    """

    rows: int
    longest: int
    tokens: int
