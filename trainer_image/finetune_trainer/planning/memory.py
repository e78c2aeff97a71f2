"""How much memory one rank needs at its peak, counted from the architecture, in bytes.

Every number counts what the libraries keep; nothing is fitted. ``benchmarks/trainer/memory.py``
holds the counts to measured peaks (within 15 %, never under by more than 5 %). "Per token" includes
padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from finetune_trainer.planning.activations import (
    backward_bytes,
    expert_adapter_size,
    is_target,
    mask_bytes,
    moment_per_token,
    recompute_per_token,
    saved_per_token,
    scores_bytes,
)
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.optimizers import EMBEDDINGS, state_bytes, step_bytes
from finetune_trainer.planning.setup import (
    BFLOAT16,
    FLOAT32,
    NF4_BYTES,
    Batch,
    Setup,
    trains_in_float32,
)

HEAD_TOKENS = 4096
HEAD_COLUMNS = 32768
"""Tile that TRL's fused head computes logits in, allocated in full whatever the vocabulary.

Source: ``trl.kernels.chunked_logprob.TOKEN_CHUNK_SIZE``, ``_CHUNKED_LOGPROB_CHUNK_SIZE``.
"""
HEADS = ("lm_head", "embed_out")
CPU_TILE_BYTES = 29
"""Float32 images of one logit that the tile's gradient holds at once without Triton."""
ZERO_BUCKET = 500_000_000
"""Elements of DeepSpeed's default reduce bucket; two of them where exchange overlaps."""
ZERO3_LIVE_PARAMETERS = 1_000_000_000
"""Weights that ZeRO-3 keeps gathered at once, by default."""
CUDA_CONTEXT = 700 * 2**20
"""Bytes of a CUDA context with cuBLAS' workspaces, beside the allocator."""
FRAGMENTATION = 0.04
"""Share of the moving part that the caching allocator cannot hand out again."""
CPU_PROCESS = 700 * 2**20
"""Python with torch, transformers and TRL loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of one rank at its peak.

    Attributes:
        weights: Base weights that stay.
        adapter: Adapter weights, and the copies of modules that are trained whole.
        gradients: Of trained weights, with the buckets of the exchange.
        optimizer: The optimiser's states, and the master copies of ZeRO.
        gathered: Weights that a sharding strategy holds whole for a moment.
        activations: Saved for the backward pass, and its largest temporaries.
        logits: The head's tile and its gradients.
        overhead: Process, CUDA context, fragmentation.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    logits: int
    overhead: int

    @property
    def allocated(self) -> int:
        """Bytes from torch's allocator at the peak."""
        return self.total - self.overhead

    @property
    def total(self) -> int:
        """Total bytes."""
        return sum(asdict(self).values())

    def to_json(self) -> dict[str, int]:
        """Return the parts and their sum."""
        return {**asdict(self), "total": self.total}


def estimate_training(model: Architecture, setup: Setup, batch: Batch) -> Memory:
    """Estimate the peak of one rank over a training run; ``batch`` is the largest."""
    adapter_size = 0 if setup.is_full else count_adapter(model, setup)
    saved = count_saved(model, setup) * setup.whole_bytes
    trained = trained_bytes(model, setup)
    shares = _Shares.of(setup)
    weights = weight_bytes_of(model, setup)
    gradients = int(trained * shares.gradients)
    states = optimizer_bytes(model, setup)
    optimizer = int((states + trained * shares.master) * shares.optimizer)
    activations, logits, gradients = _peak(model, setup, batch, gradients)
    moving = activations + logits
    overhead = CPU_PROCESS
    if setup.use_gpu:
        overhead = CUDA_CONTEXT + int(FRAGMENTATION * (moving + gradients))
    return Memory(
        weights=int(weights * shares.weights),
        adapter=int((adapter_size * FLOAT32 + saved) * shares.weights),
        gradients=gradients,
        optimizer=optimizer,
        gathered=_gathered_bytes(model, setup),
        activations=activations,
        logits=logits,
        overhead=overhead,
    )


def trained_bytes(model: Architecture, setup: Setup) -> int:
    """Return the bytes of all trained weights."""
    if setup.is_full:
        return FLOAT32 * model.num_parameters
    saved = count_saved(model, setup) * setup.whole_bytes
    return FLOAT32 * count_adapter(model, setup) + saved


def optimizer_bytes(model: Architecture, setup: Setup) -> float:
    """Return the bytes of the optimiser's states over all ranks."""
    embedded = count_saved(model, setup, among=EMBEDDINGS)
    if setup.is_full:
        embedded = model.vocab_size * model.hidden_size
    trained = trained_bytes(model, setup)
    return state_bytes(model, setup, trained=trained, num_embedded=embedded)


def count_adapter(model: Architecture, setup: Setup) -> int:
    """Count the adapter's weights: rank x (in + out) of every adapted layer."""
    magnitudes = 1 if setup.adapter == "DoRA" else 0
    return sum(
        each.count * (setup.rank * (each.width_in + each.width_out) + magnitudes * each.width_out)
        for each in model.linears
        if is_target(each.name, setup)
    ) + expert_adapter_size(model, setup)


def count_saved(model: Architecture, setup: Setup, *, among: Sequence[str] = ()) -> int:
    """Count the weights of modules that are trained whole beside the adapter.

    ``among`` are last parts of the names that count; empty counts all.
    """
    if setup.is_full:
        return 0
    return sum(
        size
        for name, size in model.modules
        if any(name == wanted or name.endswith("." + wanted) for wanted in setup.saved_modules)
        and (not among or name.rpartition(".")[2] in among)
    )


def saved_bytes(model: Architecture, setup: Setup, batch: Batch) -> int:
    """Estimate the bytes that autograd holds after a forward pass."""
    return _activation_bytes(model, setup, batch)[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shares:
    """How much of each part one rank keeps."""

    weights: float
    gradients: float
    optimizer: float
    master: int

    @classmethod
    def of(cls, setup: Setup) -> _Shares:
        part = 1 / setup.world_size
        if setup.world_size == 1:
            return cls(weights=1, gradients=1, optimizer=1, master=0)
        if setup.strategy == "ZeRO2":
            return cls(weights=1, gradients=part, optimizer=part, master=1)
        if setup.strategy == "ZeRO3":
            return cls(weights=part, gradients=part, optimizer=part, master=1)
        if setup.strategy == "FSDP2":
            part = 1 / setup.num_shards
            return cls(weights=part, gradients=part, optimizer=part, master=0)
        # DDP exchanges gradients in buckets of their own.
        return cls(weights=1, gradients=2, optimizer=1, master=0)


def weight_bytes_of(model: Architecture, setup: Setup) -> float:
    """Return the bytes of the base weights as training loads them."""
    if setup.is_full:
        return model.num_parameters * FLOAT32
    if setup.adapter != "QLoRA":
        return model.num_parameters * setup.value_bytes
    packed = sum(each.count * each.width_in * each.width_out for each in model.linears)
    return packed * NF4_BYTES + (model.num_parameters - packed) * BFLOAT16


def _gathered_bytes(model: Architecture, setup: Setup) -> int:
    if setup.world_size == 1 or setup.strategy == "DDP":
        return 0
    value = FLOAT32 if setup.is_full else setup.value_bytes
    ends = model.vocab_size * model.hidden_size * (1 if model.tied else 2)
    block = (model.num_parameters - ends) / model.num_layers
    if setup.strategy == "FSDP2":
        # The block at work, the one fetched ahead, and the root: embedding, norm and head.
        return int((2 * block + ends) * value)
    buckets = 2 if setup.use_gpu else 1
    reduce = min(ZERO_BUCKET, model.num_parameters) * value * buckets
    if setup.strategy == "ZeRO2":
        return int(reduce)
    return int(reduce + min(ZERO3_LIVE_PARAMETERS, model.num_parameters) * value)


def _activation_bytes(model: Architecture, setup: Setup, batch: Batch) -> tuple[int, int]:
    """Return the bytes saved after the forward pass, and the largest moment of the backward."""
    h, s, layers = model.hidden_size, setup.value_bytes, model.num_layers
    attention = mask_bytes(setup, batch) + scores_bytes(model, setup, batch)
    block = batch.tokens * saved_per_token(model, setup) + attention
    # The last norm (x, and its normalised image if trained), the head's input, rotary tables.
    stream = setup.stream_bytes
    norm = FLOAT32 + (stream if setup.is_full else 0)
    ends = batch.tokens * (norm * h + stream * h + 2 * model.head_dim * s + 40)
    casts = 0
    if setup.casts_weights:
        linear = sum(each.count * each.width_in * each.width_out for each in model.linears)
        casts = BFLOAT16 * (linear + model.num_expert_parameters)
    elif (
        not setup.is_full
        and setup.bfloat16
        and (setup.adapter != "QLoRA" or trains_in_float32(setup.adapter, setup.strategy))
    ):
        casts = BFLOAT16 * count_adapter(model, setup)
    if setup.adapter == "DoRA" and setup.bfloat16 and setup.dropout:
        # PEFT runs the dropped input through float32 copies of the adapted weights.
        adapted = [each for each in model.linears if is_target(each.name, setup)]
        casts += FLOAT32 * sum(each.count * each.width_in * each.width_out for each in adapted)
    if expert_adapter_size(model, setup):
        # PEFT adds the update to the experts' weights and keeps the sum for the backward pass.
        casts += s * model.num_expert_parameters
    least = max(_dora_bytes(model, setup), backward_bytes(model, setup, batch))
    if not setup.checkpointing:
        moment = max(batch.tokens * moment_per_token(model, setup), least)
        return int(layers * block + ends + casts), int(moment)
    inputs = layers * batch.tokens * h * stream
    # Of a mixture with dense blocks, the one that is largest has experts.
    block = batch.tokens * saved_per_token(replace(model, dense_layers=0), setup) + attention
    moment = block + max(batch.tokens * recompute_per_token(model, setup), least) + casts / layers
    return int(inputs + ends), int(max(moment, casts))


def _dora_bytes(model: Architecture, setup: Setup) -> int:
    """Return what the norms of one DoRA layer's weight take, however few tokens there are.

    PEFT sends the identity through the adapter, of which autocast keeps a copy. Then there are, in
    float32, the update, its scaled image, the weight, and their sum. With dropout, the copies that
    are kept of all weights are more. Source: ``peft.tuners.lora.dora.DoraLinearLayer``.
    """
    if setup.adapter != "DoRA" or setup.dropout:
        return 0
    largest = 0
    for each in model.linears:
        if is_target(each.name, setup):
            identity, update = each.width_in**2, each.width_in * each.width_out
            if setup.bfloat16:
                made = (FLOAT32 + BFLOAT16) * identity + BFLOAT16 * update
                summed = BFLOAT16 * identity + (BFLOAT16 + 4 * FLOAT32) * update
            else:
                # The update and the weight are float32 already.
                made, summed = 0, FLOAT32 * identity + 3 * FLOAT32 * update
            largest = max(largest, made, summed)
    return largest


def _head_bytes(model: Architecture, setup: Setup, batch: Batch) -> int:
    rows, columns = min(batch.tokens, HEAD_TOKENS), min(model.vocab_size, HEAD_COLUMNS)
    tile = rows * HEAD_COLUMNS * setup.value_bytes
    if not setup.use_gpu:
        tile += rows * columns * (CPU_TILE_BYTES + FLOAT32 * model.caps_logits)
    gradient = batch.tokens * model.hidden_size * FLOAT32
    if setup.is_full:
        gradient += model.vocab_size * model.hidden_size * FLOAT32
        if setup.casts_weights:
            tile += columns * model.hidden_size * BFLOAT16
        elif setup.bfloat16:
            gradient += model.vocab_size * model.hidden_size * BFLOAT16
    saved_head = count_saved(model, setup, among=HEADS)
    if saved_head:
        gradient += saved_head * FLOAT32
        if setup.whole_bytes > setup.value_bytes:
            tile += columns * model.hidden_size * BFLOAT16
    return tile + gradient


def _peak(model: Architecture, setup: Setup, batch: Batch, gradients: int) -> tuple[int, int, int]:
    """Return activations, logits and gradients at the worst of four moments.

    They are the head's backward, the last block's, the end, and the optimiser's step.
    """
    saved, moment = _activation_bytes(model, setup, batch)
    head = _head_bytes(model, setup, batch)
    embedding = model.vocab_size * model.hidden_size * FLOAT32 if setup.is_full else 0
    head_kept = count_saved(model, setup, among=HEADS) * setup.whole_bytes
    is_early = setup.accumulation or setup.world_size > 1
    before = gradients if is_early else 0
    # A tied embedding gets a second gradient of its own size, added at the end.
    last = embedding if model.tied or is_early else 0
    moments = [
        (saved, head, before),
        (saved + moment, embedding + head_kept, before),
        (0, last, gradients),
        (step_bytes(model, setup), 0, gradients),
    ]
    return max(moments, key=sum)
