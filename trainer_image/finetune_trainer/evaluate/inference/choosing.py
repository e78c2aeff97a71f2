"""Chooses the likeliest of given answers: a model whose words are not free.

The likelihood of an answer is that of all its tokens with the one that ends it: the sum of their
log-probabilities, not divided by their number. It is the chance that the model says just this
answer, so of two labels with the same beginning neither gains by being longer.

No token raises the sum. So a choice whose sum up to its first own token is already below a whole
other one is not read further, and with labels that begin differently most are never read: the
result is that of reading all of them (branch and bound).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.inference.caches import accepted, select_rows
from finetune_trainer.evaluate.tokenized import count_common

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DynamicCache, PreTrainedModel

Floats = NDArray[np.float64]


def choose(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    choices: Sequence[list[int]],
    *,
    cache: DynamicCache | None,
) -> list[int]:
    """Return of each prompt the number of the likeliest choice; of equal ones the first.

    Args:
        model: The model.
        ids: Tokens of the prompts, batch by width; each ends in the last column.
        mask: 1 where they are tokens.
        choices: Tokens of each choice with its end; none is the beginning of another.
        cache: What the model holds of all but the last column; left as it is. None reads prompts
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
    """Return the next choices to read, one of each row in turn; rows that are settled drop out.

    Args:
        order: Of each row the choices, the best bound first.
        nexts: Of each row that is not settled how far it is; brought forward.
        bounds: No choice's total is above its bound.
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
    """Reads tokens behind prompts that a model has read, or reads those again with them."""

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
            The summed log-probability of each tail, and that of each wanted token behind it, tails
            by wanted tokens.
        """
        import torch

        longest = max(map(len, tails))
        begin = self.ids.shape[1] - 1 if self.cache is not None else 0
        ids = torch.zeros((len(rows), longest), dtype=torch.long, device=self.ids.device)
        for number, tail in enumerate(tails):
            ids[number, : len(tail)] = torch.tensor(list(tail), dtype=torch.long)
        # Nothing before a place sees what fills the shorter tails behind it.
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
