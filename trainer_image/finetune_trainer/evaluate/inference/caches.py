"""What a model holds of tokens that it has read, and how one goes on from there."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_trainer.planning.positions import turns_by_length

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """The beginning that prompts have in common, read once.

    Attributes:
        num_tokens: How many tokens it has.
        cache: What the model holds of it, as a batch of one row.
    """

    num_tokens: int
    cache: DynamicCache

    def repeated(self, rows: int) -> DynamicCache:
        """Return what the model would hold had it read the beginning of so many rows."""
        return select_rows(self.cache, [0] * rows)


def read_shared(model: PreTrainedModel, tokens: Sequence[int]) -> Shared | None:
    """Read the beginning of all prompts; None where a model's memory cannot be gone on from.

    With a window that slides, rows whose own part begins in different places would see different
    lengths of the beginning: such models read every prompt whole, as do those whose positions are
    turned by the length of what is read.
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
    """Return what of positions and wanted logits this kind of model is told.

    Args:
        model: The model.
        mask: 1 where tokens are, from the first one that the model holds on.
        num_scored: Positions at the end whose logits are wanted.
        begin: First column that is read now.
    """
    # An adapter's wrapper takes anything; what is inside decides.
    inner = getattr(model, "get_base_model", lambda: model)()
    names = inspect.signature(inner.forward).parameters
    told: dict[str, Any] = {}
    if "position_ids" in names:
        told["position_ids"] = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, begin:]
    if "logits_to_keep" in names:
        told["logits_to_keep"] = num_scored
    return told


def select_rows(cache: DynamicCache, rows: Sequence[int]) -> DynamicCache:
    """Return a cache of these rows of another one, which stays as it is; rows may repeat."""
    import torch

    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    selected.batch_select_indices(torch.tensor(rows))
    return selected


def can_select(cache: object) -> bool:
    """Whether rows of a cache can be taken out and gone on from, with a window or without."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return _consists_of(cache, (DynamicLayer, DynamicSlidingWindowLayer))


def can_go_on(model: PreTrainedModel) -> bool:
    """Whether several tokens at once may follow what a model has read, as if it read all at once.

    States cannot be gone on from so in every family: what is held of one token tells. And where
    positions are turned by the length of what is read, a part is turned as a shorter text.
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
    """Whether a cache has layers of these kinds alone; classes derived from it keep more."""
    from transformers.cache_utils import DynamicCache

    if not isinstance(cache, DynamicCache) or type(cache) is not DynamicCache:
        return False
    return all(type(layer) in kinds for layer in cache.layers)


def cut_back(cache: Any, *, read: int, kept: int) -> DynamicCache | None:
    """Return a cache cut back to its first tokens; None if it cannot be."""
    if kept == 0 or not (can_select(cache) if read == kept else is_plain(cache)):
        return None
    if read > kept:
        cache.crop(kept - read)
    return cache if cache.get_seq_length() == kept else None
