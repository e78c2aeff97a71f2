"""Forward passes over given tokens: their likelihood, the likeliest choice, and what is cached.

The likelihood of a choice is that of all its tokens with the one that ends it, not divided by their
number. It is the probability that the model gives exactly this answer, so a longer label has no
advantage over a shorter one with the same beginning.

No token raises that sum. A choice whose sum up to its first own token is already below another
choice's total is not read further (branch and bound). The result is that of reading all choices.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.inference.engine import Likelihood
from finetune_trainer.evaluate.tokenized import count_common
from finetune_trainer.failures import is_out_of_memory
from finetune_trainer.model.encoding import IGNORED, TokenizedExample
from finetune_trainer.planning.positions import turns_by_length

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DynamicCache, PreTrainedModel

Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """The beginning that prompts have in common, read once.

    Attributes:
        num_tokens: Its length.
        cache: The model's cache of it, as a batch of one row.
    """

    num_tokens: int
    cache: DynamicCache

    def repeated(self, rows: int) -> DynamicCache:
        """Return the cache of a batch of so many rows that all begin with it."""
        return select_rows(self.cache, [0] * rows)


def read_shared(model: PreTrainedModel, tokens: Sequence[int]) -> Shared | None:
    """Read the beginning of all prompts; None where a model cannot continue from a shared cache.

    With a sliding window, rows whose own part begins in different places would see different
    lengths of the beginning. Models with such windows read every prompt whole, as do those whose
    rotary positions depend on the length of what is read.
    """
    import torch

    if turns_by_length(model.config.to_dict()):
        return None
    ids = torch.tensor([tokens]).to(model.device)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        output = model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=True,
            **accepted(model, mask, num_scored=1),
        )
    cache = output.past_key_values
    return Shared(num_tokens=len(tokens), cache=cache) if is_plain(cache) else None


def accepted(
    model: PreTrainedModel, mask: Tensor, *, num_scored: int, begin: int = 0
) -> dict[str, Any]:
    """Return the arguments about positions and wanted logits that this kind of model takes.

    Args:
        model: The model.
        mask: 1 where tokens are, from the first one in the cache.
        num_scored: Positions at the end whose logits are wanted.
        begin: First column that is read now.
    """
    # An adapter's wrapper takes any argument; the model inside may not.
    inner = getattr(model, "get_base_model", lambda: model)()
    names = inspect.signature(inner.forward).parameters
    arguments: dict[str, Any] = {}
    if "position_ids" in names:
        arguments["position_ids"] = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, begin:]
    if "logits_to_keep" in names:
        arguments["logits_to_keep"] = num_scored
    return arguments


def select_rows(cache: DynamicCache, rows: Sequence[int]) -> DynamicCache:
    """Return a cache of these rows of another one, which is not changed; rows may repeat."""
    import torch

    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    selected.batch_select_indices(torch.tensor(rows))
    return selected


def can_select(cache: object) -> bool:
    """Whether a model can continue from some rows of a cache, with a window or without."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return _consists_of(cache, (DynamicLayer, DynamicSlidingWindowLayer))


def can_go_on(model: PreTrainedModel) -> bool:
    """Whether a model may read a text in parts, with the result of reading it in one piece.

    Not every family can read several tokens behind a recurrent state; the cache of one token shows
    whether there is one. Where rotary positions depend on the length of what is read, a part would
    be read as a shorter text.
    """
    import torch

    if turns_by_length(model.config.to_dict()):
        return False
    ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    with torch.inference_mode():
        output: Any = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
    return can_select(getattr(output, "past_key_values", None))


def is_plain(cache: object) -> bool:
    """Whether a cache holds a key and a value of every token, and nothing else."""
    from transformers.cache_utils import DynamicLayer

    return _consists_of(cache, (DynamicLayer,))


def _consists_of(cache: object, kinds: tuple[type, ...]) -> bool:
    """Whether a cache has only layers of these kinds; derived classes hold more."""
    from transformers.cache_utils import DynamicCache

    if not isinstance(cache, DynamicCache) or type(cache) is not DynamicCache:
        return False
    return all(type(layer) in kinds for layer in cache.layers)


def cut_back(cache: Any, *, read: int, kept: int) -> DynamicCache | None:
    """Return a cache cut back to its first ``kept`` tokens; None if it cannot be."""
    if kept == 0 or not (can_select(cache) if read == kept else is_plain(cache)):
        return None
    if read > kept:
        cache.crop(kept - read)
    return cache if cache.get_seq_length() == kept else None


def score_batch(
    model: PreTrainedModel,
    examples: Sequence[TokenizedExample],
    *,
    pad_id: int,
    shared: Shared | None = None,
) -> list[Likelihood]:
    """Return the likelihood of each example; they go through the model together.

    Args:
        model: The model.
        examples: The examples.
        pad_id: Fills the shorter rows of the batch.
        shared: What all of them begin with. Neither it nor the token after it counts.
    """
    import torch

    shape = (len(examples), max(len(example.input_ids) for example in examples))
    ids = torch.full(shape, pad_id)
    labels = torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        ids[row, :size] = torch.tensor(example.input_ids)
        labels[row, :size] = torch.tensor(example.labels)
        mask[row, :size] = 1
    ids, labels, mask = (t.to(model.device) for t in (ids, labels, mask))
    known: dict[str, Any] = {"use_cache": False}
    if shared is not None:
        ids, labels = ids[:, shared.num_tokens :], labels[:, shared.num_tokens :]
        known = {"past_key_values": shared.repeated(len(examples)), "use_cache": True}
    with torch.inference_mode():
        logits_BTV = model(input_ids=ids, attention_mask=mask, **known).logits
        return sum_losses(logits_BTV[:, :-1], labels[:, 1:])


def sum_losses(logits: Tensor, targets: Tensor) -> list[Likelihood]:
    """Return the likelihood of each row.

    Args:
        logits: Batch by positions by vocabulary, each for the token that comes next.
        targets: That token, batch by positions; ``IGNORED`` where it does not count.
    """
    import torch
    from torch.nn import functional

    # The logits of a model on several GPUs come from the last one.
    logits_BTV = logits.to(targets.device)
    chosen = targets != IGNORED
    # Only positions that count are turned into float32: the vocabulary is wide.
    losses = functional.cross_entropy(logits_BTV[chosen].float(), targets[chosen], reduction="none")
    sums = torch.zeros(len(targets), dtype=torch.float64)
    sums.index_add_(0, chosen.nonzero()[:, 0].cpu(), losses.double().cpu())
    return list(map(Likelihood, sums.tolist(), chosen.sum(dim=1).tolist()))


def choose(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    choices: Sequence[list[int]],
    *,
    cache: DynamicCache | None,
) -> list[int]:
    """Return for each prompt the index of the likeliest choice, the first of equal ones.

    Args:
        model: The model.
        ids: Tokens of the prompts, batch by width; each ends in the last column.
        mask: 1 where they are tokens.
        choices: Tokens of each choice with its end; none is the beginning of another.
        cache: The model's cache of all but the last column; it is not changed. None reads prompts
            again with each choice.
    """
    reader = _Reader(model, ids, mask, cache)
    rows = list(range(len(ids)))
    size = count_common(choices)
    if len(choices) < 2:
        return [0] * len(rows)
    common, own = choices[0][:size], [choice[size] for choice in choices]
    sums, following = reader.read(rows, [common] * len(rows), wanted=own)
    bounds = sums[:, None] + following
    is_whole = np.array([len(choice) == size + 1 for choice in choices])
    totals = np.where(is_whole, bounds, -np.inf)
    order = np.argsort(-bounds, axis=1, kind="stable")
    nexts = dict.fromkeys(rows, 0)
    while pairs := _propose(order, nexts, bounds, totals, is_whole):
        sums, _ = reader.read([row for row, _ in pairs], [choices[number] for _, number in pairs])
        for (row, number), total in zip(pairs, sums, strict=True):
            totals[row, number] = total
    return [int(number) for number in totals.argmax(axis=1)]


def _propose(
    order: NDArray[np.int64],
    nexts: dict[int, int],
    bounds: Floats,
    totals: Floats,
    is_whole: NDArray[np.bool_],
) -> list[tuple[int, int]]:
    """Return the next choices to read, at most one of each row.

    Args:
        order: For each row its choices, the best bound first.
        nexts: For each undecided row its next place in ``order``. It is advanced here, and rows
            that are decided are removed.
        bounds: Upper bounds of the choices' totals.
        totals: Totals so far, ``-inf`` where a choice was not read.
        is_whole: Choices whose bound is their total.
    """
    pairs: list[tuple[int, int]] = []
    for row in list(nexts):
        best = totals[row].max()
        while nexts[row] < order.shape[1] and is_whole[order[row, nexts[row]]]:
            nexts[row] += 1
        if nexts[row] == order.shape[1] or bounds[row, order[row, nexts[row]]] <= best:
            del nexts[row]
            continue
        pairs.append((row, int(order[row, nexts[row]])))
        nexts[row] += 1
    return pairs


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads tokens behind prompts, by the cache of the prompts or together with them."""

    model: PreTrainedModel
    ids: Tensor
    mask: Tensor
    cache: DynamicCache | None

    def read(
        self, rows: Sequence[int], tails: Sequence[Sequence[int]], *, wanted: Sequence[int] = ()
    ) -> tuple[Floats, Floats]:
        """Read tails behind prompts.

        Args:
            rows: The prompt of each tail.
            tails: Tokens; they may be none.
            wanted: Tokens that might follow.

        Returns:
            The summed log-probability of each tail, and that of each wanted token behind it (tails
            by wanted tokens).
        """
        import torch

        longest = max(map(len, tails))
        begin = self.ids.shape[1] - 1 if self.cache is not None else 0
        ids = torch.zeros((len(rows), longest), dtype=torch.long, device=self.ids.device)
        for number, tail in enumerate(tails):
            ids[number, : len(tail)] = torch.tensor(list(tail), dtype=torch.long)
        # No token sees the padding behind the shorter tails.
        mask = torch.cat([self.mask[list(rows)], torch.ones_like(ids)], dim=1)
        past = {} if self.cache is None else {"past_key_values": select_rows(self.cache, rows)}
        with torch.inference_mode():
            logits = self.model(
                input_ids=torch.cat([self.ids[list(rows)], ids], dim=1)[:, begin:],
                attention_mask=mask,
                use_cache=self.cache is not None,
                **past,
                **accepted(self.model, mask, num_scored=longest + 1, begin=begin),
            ).logits[:, -longest - 1 :]
            known = logits.float().log_softmax(dim=-1)
        places = torch.arange(longest, device=known.device)
        scores = known[:, places].gather(2, ids.to(known.device)[:, :, None])[:, :, 0].double()
        sizes = torch.tensor([len(tail) for tail in tails], device=known.device)
        sums = (scores * (places < sizes[:, None])).sum(dim=1)
        following = known[torch.arange(len(rows), device=known.device), sizes][:, list(wanted)]
        return sums.cpu().numpy(), following.double().cpu().numpy()


def compute_in_halves(compute: Callable[[Sequence[int]], T], batch: Sequence[int]) -> Iterator[T]:
    """Compute a batch, in halves where the whole does not fit in memory.

    Raises:
        Exception: Whatever computing raises, also for lack of memory with one row.
    """
    try:
        computed = compute(batch)
    except Exception as error:
        if not is_out_of_memory(error) or len(batch) < 2:
            raise
    else:
        yield computed
        return
    # Outside of the handler: the exception would keep the tensors of the failed try alive.
    release_memory()
    middle = (len(batch) + 1) // 2
    yield from compute_in_halves(compute, batch[:middle])
    yield from compute_in_halves(compute, batch[middle:])


def release_memory() -> None:
    """Free what a failed try has left."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
