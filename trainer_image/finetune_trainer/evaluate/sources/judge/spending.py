"""What a judge has cost, and whether one more call may be begun. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from finetune_api.v1alpha1.evaluation.judging import Judge, JudgePrice
from finetune_trainer.evaluate.sources.judge.replies import Kept

WRAPPING_TOKENS = 64
"""What a server's chat template adds to a message, at most."""


def most_input_tokens(content: str) -> int:
    """Return more tokens than a text can have: no token is shorter than a byte."""
    return len(content.encode()) + WRAPPING_TOKENS


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """Calls and tokens that were paid.

    Attributes:
        calls: Answers of the judge.
        input_tokens: Tokens it read.
        output_tokens: Tokens it wrote.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def on(cls, replies: Iterable[Kept]) -> Spent:
        """Return what replies have cost; a refusal costs nothing."""
        paid = [reply for reply in replies if reply.text is not None]
        return cls(
            calls=len(paid),
            input_tokens=sum(reply.input_tokens for reply in paid),
            output_tokens=sum(reply.output_tokens for reply in paid),
        )

    def amount(self, price: JudgePrice) -> Decimal:
        """Return the money."""
        read = self.input_tokens * Decimal(price.input)
        return (read + self.output_tokens * Decimal(price.output)) / 1000

    def and_at_most(self, judge: Judge, contents: Iterable[str]) -> Spent:
        """Return what is spent if calls with these words are begun, at the worst."""
        words = list(contents)
        return Spent(
            calls=self.calls + len(words),
            input_tokens=self.input_tokens + sum(map(most_input_tokens, words)),
            output_tokens=self.output_tokens + len(words) * judge.max_answer_tokens,
        )

    def is_within(self, judge: Judge) -> bool:
        """Whether neither cap is passed."""
        if self.calls > judge.max_calls:
            return False
        if judge.max_amount is None or judge.price is None:
            return True
        return self.amount(judge.price) <= Decimal(judge.max_amount)
