"""Checks of reasoning in answers: begun and never ended, or brought by some rows only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.rows import Example, refuse_row
from finetune_trainer.prepare.checks.checks import Finding
from finetune_trainer.prepare.checks.row_checks import learned_texts
from finetune_trainer.prepare.checks.screening import Judgement, Tally

_ENDS = {"<think>": "</think>", "<thinking>": "</thinking>", "[THINK]": "[/THINK]"}
"""End of reasoning, by its beginning."""

_BEGIN = re.compile(r"\s*(<think>|<thinking>|\[THINK\])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reasoning:
    """Refuses answers that begin to reason and never end it; counts those that reason."""

    def judge(self, example: Example) -> Judgement:
        """Look at the answers of a row; plain text is left alone."""
        if "text" in example.row:
            return Judgement(verdict=example)
        for text in learned_texts(example.row):
            begun = _BEGIN.match(text)
            if begun and _ENDS[begun[1]] not in text:
                error = refuse_row(
                    example,
                    "UnclosedReasoning",
                    f"an answer begins with {begun[1]} and has no {_ENDS[begun[1]]}: the model "
                    "would learn to reason without an answer; end it, or leave the row out",
                )
                return Judgement(verdict=error)
        counts = {"reasoning": 1} if _reasons(example.row) else {}
        return Judgement(verdict=example, counts=counts)

    def summarise(self, tally: Tally) -> Sequence[Finding]:
        """Report how many rows reason, if others do not."""
        with_it = tally.counts["reasoning"]
        without = tally.num_rows - tally.num_refused - with_it
        if not with_it or not without:
            return []
        message = (
            f"{with_it} rows answer with reasoning and {without} without, so the model learns to "
            "do now the one, now the other; keep one kind, unless it shall learn both"
        )
        return [Finding(name="mixedReasoning", num_flagged=min(with_it, without), message=message)]


def _reasons(row: Mapping[str, Any]) -> bool:
    for name in ("messages", "completion"):
        for message in () if isinstance(row.get(name), str) else row.get(name, ()):
            if message["role"] == "assistant" and message.get("reasoning_content"):
                return True
    return any(end in text for text in learned_texts(row) for end in _ENDS.values())
