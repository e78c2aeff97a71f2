"""What reviewers preferred as rows that ``prepare`` reads for DPO, KTO's pairs and ORPO. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.evaluate.sources.review.blinding import KeyEntry
from finetune_trainer.evaluate.sources.review.panel import OVERALL, POINTS, choose_overall
from finetune_trainer.evaluate.sources.review.verdicts import ReviewFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferred:
    """Rows, and what was left out.

    Attributes:
        rows: Rows with ``prompt``, ``chosen`` and ``rejected``.
        num_ties: Items that reviewers were even on.
        num_empty: Items of which one answer is empty: nobody can learn from it.
    """

    rows: list[dict[str, Any]]
    num_ties: int
    num_empty: int


def prefer(
    files: Sequence[ReviewFile],
    key: Mapping[str, KeyEntry],
    *,
    rubric: Sequence[str],
    criterion: str = OVERALL,
) -> Preferred:
    """Return the answer that more reviewers preferred over the other one, for each item.

    Args:
        files: Verdicts, complete, one of each reviewer.
        key: Which model is where.
        rubric: The criteria.
        criterion: The one that decides, or ``overall``.
    """
    rows: list[dict[str, Any]] = []
    num_ties = num_empty = 0
    for name, entry in key.items():
        sides = [
            choose_overall(file.items[name].choices, rubric)
            if criterion == OVERALL
            else file.items[name].choices[criterion]
            for file in files
        ]
        balance = sum(POINTS[entry.model_of(side)] - POINTS["same"] for side in sides)
        compared = entry.compared
        if balance == 0:
            num_ties += 1
        elif not compared.base.strip() or not compared.tuned.strip():
            num_empty += 1
        else:
            answers = (compared.tuned, compared.base)
            chosen, rejected = answers if balance > 0 else answers[::-1]
            rows.append(_row(compared.prompt, compared.tools, chosen, rejected))
    return Preferred(rows=rows, num_ties=num_ties, num_empty=num_empty)


def _row(
    prompt: list[dict[str, Any]] | str,
    tools: list[dict[str, Any]] | None,
    chosen: str,
    rejected: str,
) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if isinstance(prompt, list):
        # A conversation is answered by a message.
        row["chosen"] = [{"role": "assistant", "content": chosen}]
        row["rejected"] = [{"role": "assistant", "content": rejected}]
    return {**row, "tools": tools} if tools else row
