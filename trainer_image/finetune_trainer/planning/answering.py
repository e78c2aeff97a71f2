"""How much memory the evaluation needs, counted from the architecture.

First it generates answers behind a growing cache, then it scores references with the logits of all
their tokens. Answer batches fill the memory, because every step reads the weights once. A batch
that does not fit is halved, so only one row alone must fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.memory import (
    CPU_PROCESS,
    CUDA_CONTEXT,
    count_adapter,
    count_saved,
    weight_bytes_of,
)
from finetune_trainer.planning.setup import FLOAT32, Setup, attention_of

TOKENS_PER_BATCH = 4096
"""Tokens that the evaluation puts through a model together, padding included."""
HELD_TOKENS = (16384, 8192, TOKENS_PER_BATCH)
"""Tokens of the conversations that are answered together, answers included; the best first."""
MAX_AUTO_TOKENS = 1024
"""Longest answer where the job leaves its length to us."""
ANSWER_MARGIN_TOKENS = 8
"""Tokens to add to the longest reference."""
REASONING_TOKENS = 1024
"""Tokens to add for reasoning, which may be longer than the references' own."""
_DOWN = ("down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h")
COUNTED_LOGIT_BYTES = 8
"""A logit that is scored: its copy beside the float32 image, or that and the log-softmax."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The largest batches of an evaluation.

    Attributes:
        rows: Conversations answered at once.
        prompt_tokens: Tokens of each, before its answer.
        answer_tokens: Longest answer, with reasoning before it.
        reference_tokens: Longest reference that is scored behind its prompt's cache.
        scored_rows: References scored together.
        scored_tokens: Tokens of these references.
        counted_tokens: Those of them whose likelihood counts.
        choice_tokens: Longest given answer of a choice.
    """

    rows: int
    prompt_tokens: int
    answer_tokens: int
    reference_tokens: int
    scored_rows: int
    scored_tokens: int
    counted_tokens: int
    choice_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class AnsweringMemory:
    """Bytes of one worker of the evaluation at its peak.

    Attributes:
        weights: Base weights.
        adapter: Adapter weights, and modules that were trained whole.
        cache: Keys, values and states of the conversations.
        logits: Of scored tokens, with their float32 images; else of the next tokens.
        activations: The largest temporaries of a block.
        overhead: Process, CUDA context.
    """

    weights: int
    adapter: int
    cache: int
    logits: int
    activations: int
    overhead: int

    @property
    def held(self) -> int:
        """The part that a spread model divides over its GPUs."""
        return self.weights + self.adapter + self.cache

    @property
    def allocated(self) -> int:
        """Bytes from torch's allocator at the peak."""
        return self.total - self.overhead

    @property
    def total(self) -> int:
        """Total bytes on one device."""
        return sum(asdict(self).values())

    @property
    def largest_part(self) -> str:
        """Name of the largest part."""
        parts = asdict(self)
        return max(parts, key=lambda name: parts[name])

    def on_each(self, num_gpus: int) -> int:
        """Return the bytes on each of several GPUs; one of them has all logits."""
        return self.total - self.held + -(-self.held // num_gpus)

    def to_json(self) -> dict[str, int]:
        """Return the parts and their sum."""
        return {**asdict(self), "total": self.total}


def answer_length(
    lengths: Sequence[int], asked: int | str, *, may_reason: bool = False, room: int | None = None
) -> int:
    """Return the longest answer to generate, in tokens: no correct answer may be cut.

    Args:
        lengths: Tokens of every reference.
        asked: ``spec.evaluation.maxNewTokens``; a word chooses by the lengths.
        may_reason: Reasoning may come before the answers.
        room: Tokens that the model takes behind the longest prompt; None if unknown.
    """
    if isinstance(asked, int):
        return asked
    longest = min(MAX_AUTO_TOKENS, max(lengths, default=1) + ANSWER_MARGIN_TOKENS)
    thought = reasoning_tokens(asked, may_reason=may_reason)
    if room is not None:
        thought = min(thought, max(0, room - longest))
    return longest + thought


def reasoning_tokens(asked: int | str, *, may_reason: bool) -> int:
    """Return the tokens of the longest answer that remain for reasoning before it.

    A number in ``spec.evaluation.maxNewTokens`` includes the reasoning.
    """
    return REASONING_TOKENS if may_reason and not isinstance(asked, int) else 0


def most_held(
    model: Architecture,
    need: Callable[[int], int],
    available: int,
    *,
    num_batches: Callable[[int], int],
    num_workers: int,
) -> int:
    """Return how many tokens of conversations a worker holds while it answers them together.

    Args:
        model: The model.
        need: Bytes for so many tokens, and all else.
        available: Bytes that it may fill.
        num_batches: Number of batches for so many tokens each.
        num_workers: Workers that share the batches.
    """
    least = HELD_TOKENS[-1]
    if model.reads_in_one_piece:
        return least
    fitting = (held for held in HELD_TOKENS if need(held) <= available)
    return next((held for held in fitting if num_batches(held) >= num_workers), least)


def largest_questions(
    *,
    longest: int,
    max_new_tokens: int | str,
    batch_size: int | str,
    may_reason: bool = False,
    held_tokens: int = TOKENS_PER_BATCH,
) -> Asked:
    """Return the largest batches that rows up to a length can make; all tokens may be scored.

    Args:
        longest: Tokens of the longest row.
        max_new_tokens: ``evaluation.maxNewTokens``.
        batch_size: ``evaluation.batchSize``.
        may_reason: Reasoning may come before the answers.
        held_tokens: Result of :func:`most_held`.
    """
    is_asked = isinstance(max_new_tokens, int)
    answer = max_new_tokens if isinstance(max_new_tokens, int) else min(MAX_AUTO_TOKENS, longest)
    # A reference is part of its row; an answer may be longer where the job says so.
    prompt = longest if is_asked else max(1, longest - answer)
    reference = min(answer, longest)
    answer += reasoning_tokens(max_new_tokens, may_reason=may_reason)
    fitting = max(1, held_tokens // (prompt + answer))
    scored = max(1, TOKENS_PER_BATCH // longest)
    return Asked(
        rows=batch_size if isinstance(batch_size, int) else fitting,
        prompt_tokens=prompt,
        answer_tokens=answer,
        reference_tokens=reference,
        scored_rows=scored,
        scored_tokens=scored * longest,
        counted_tokens=scored * longest,
    )


def one_row(asked: Asked) -> Asked:
    """Return the smallest possible batches: the longest row alone, without an answer."""
    longest = asked.scored_tokens // asked.scored_rows
    return replace(asked, rows=1, scored_rows=1, scored_tokens=longest, counted_tokens=0)


def estimate_answering(
    model: Architecture, setup: Setup, asked: Asked, *, num_adapters: int = 1
) -> AnsweringMemory:
    """Estimate the peak of one worker that holds the whole model.

    ``setup`` is the training's; ``num_adapters`` of this size are loaded together.
    """
    value = setup.value_bytes
    weights = model.num_parameters * value if setup.is_full else weight_bytes_of(model, setup)
    adapter = 0
    if not setup.is_full:
        adapter = count_adapter(model, setup) * FLOAT32 + count_saved(model, setup) * value
        adapter *= num_adapters
    cache, logits, activations = max(
        _generating(model, setup, asked), _scoring(model, setup, asked), key=sum
    )
    return AnsweringMemory(
        weights=int(weights),
        adapter=adapter,
        cache=cache,
        logits=logits,
        activations=activations,
        overhead=CUDA_CONTEXT if setup.use_gpu else CPU_PROCESS,
    )


def _generating(model: Architecture, setup: Setup, asked: Asked) -> tuple[int, int, int]:
    """Return cache, logits and activations while answers are generated.

    One layer of the cache is copied as it grows.
    """
    value, rows = setup.value_bytes, asked.rows
    total = asked.prompt_tokens + asked.answer_tokens
    together = total if model.reads_in_one_piece else max(1, TOKENS_PER_BATCH // rows)
    columns = min(asked.prompt_tokens, together)
    whole = rows * model.cache.num_bytes(total, value)
    start = rows * model.cache.num_bytes(asked.prompt_tokens, value)
    # A layer with a window keeps all that it has just read.
    begun = rows * model.cache.num_bytes(asked.prompt_tokens, value, read=columns)
    continued = rows * model.cache.num_bytes(total, value, read=min(total, together))
    # Of the next token only: the model's, their float32 copy and the choice among them.
    logits = rows * model.vocab_size * (value + 2 * FLOAT32)
    reading = _block_bytes(model, setup, rows, columns, seen=asked.prompt_tokens)
    per_logit = model.vocab_size * (value + COUNTED_LOGIT_BYTES)
    scored = rows * min(asked.reference_tokens, together)
    tokens = rows * min(total, together)
    stream = 2 * tokens * model.hidden_size * value
    moments = [
        (begun, 0, reading),
        (continued, per_logit * scored, stream),
        (whole, logits, max(whole // model.num_layers, _seen_bytes(model, rows * total, value))),
    ]
    if asked.choice_tokens:
        seen = _seen_bytes(model, rows * asked.prompt_tokens, value)
        chosen = per_logit * rows * (asked.choice_tokens + 1)
        moments.append((2 * start, chosen, seen))
    return max(moments, key=sum)


def _scoring(model: Architecture, setup: Setup, asked: Asked) -> tuple[int, int, int]:
    """Return cache, logits and activations while references are scored: there is no cache."""
    tokens, rows = asked.scored_tokens, asked.scored_rows
    logits = model.vocab_size * (
        tokens * setup.value_bytes + asked.counted_tokens * COUNTED_LOGIT_BYTES
    )
    stream = 2 * tokens * model.hidden_size * setup.value_bytes
    longest = -(-tokens // rows)
    block = _block_bytes(model, setup, rows, longest, seen=longest)
    return max((0, logits, stream), (0, 0, block), key=sum)


def _block_bytes(
    model: Architecture, setup: Setup, rows: int, row_tokens: int, *, seen: int
) -> int:
    """Return the largest temporaries of one block's forward pass, with mask and residual stream.

    A state-space layer without its kernel holds more, which is not counted.
    """
    value, tokens = setup.value_bytes, rows * row_tokens
    stream = 3 * model.hidden_size * value
    before = _seen_bytes(model, rows * (seen - row_tokens), value)
    largest = max(_attention_per_token(model, value), _mlp_per_token(model, setup))
    cells = rows * row_tokens * seen
    is_written_out = attention_of(model.model_type, setup.attention) == "eager"
    scores = cells * model.num_heads * (FLOAT32 + value) if is_written_out else 0
    return tokens * (stream + largest) + before + scores + 2 * cells


def _seen_bytes(model: Architecture, tokens: int, value: int) -> int:
    """Return what one layer's attention makes of so many tokens that the cache holds.

    Keys and values are repeated for the heads that share them, and made from what is compressed.
    """
    if model.latent_attention:
        return tokens * 4 * model.query_width * value
    return tokens * 2 * model.query_width * value if model.kv_width < model.query_width else 0


def _attention_per_token(model: Architecture, value: int) -> int:
    """Return bytes of queries, keys and values, of their norms' float32 images or their repeats."""
    projected = (model.query_width + 2 * model.kv_width) * value
    if model.latent_attention:
        # Compressed first; then every head has keys and values of its own.
        projected = 4 * model.query_width * value
    normed = 3 * FLOAT32 * model.query_width if model.qk_norm else 0
    return projected + max(normed, 4 * model.query_width * value)


def _mlp_per_token(model: Architecture, setup: Setup) -> int:
    """Return bytes of the MLP's factors and their product, and of an adapter's float32 image."""
    value = setup.value_bytes
    factors = 3 if model.gated else 5 if model.composed_activation else 2
    dense = max(
        (each.width_in for each in model.linears if each.name in _DOWN),
        default=model.intermediate_size,
    )
    width = dense
    visits = 0
    if model.num_experts:
        inner = model.experts_per_token * model.intermediate_size
        width = max(dense, inner + model.shared_intermediate_size)
        visits = 3 * model.experts_per_token * model.hidden_size * value
    cast = 0 if setup.is_full or not setup.bfloat16 else FLOAT32
    return width * (factors * value + cast) + visits
