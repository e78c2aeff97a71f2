"""Numbers in answers, whatever words stand around them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from finetune_trainer.data.answers.values import read_number
from finetune_trainer.evaluate.metrics.answers import Measured, References, mean_of


def number_close(
    absolute: Decimal, relative: Decimal, texts: Sequence[str], references: References
) -> Measured:
    """Return the share of answers whose number is close to that of a reference.

    The number of a text is the last one in it, where answers tend to end. Close is a difference of
    at most ``absolute``, or of at most ``relative`` times the reference.

    Args:
        absolute: Tolerance in the unit of the numbers.
        relative: Tolerance as a share of the reference.
        texts: The answers.
        references: Accepted answers of each.
    """

    def is_close(text: str, reference: str) -> bool:
        said, wanted = read_number(text), read_number(reference)
        if said is None or wanted is None:
            return False
        return abs(said - wanted) <= max(absolute, relative * abs(wanted))

    return mean_of(
        [
            float(any(is_close(text, reference) for reference in group))
            for text, group in zip(texts, references, strict=True)
        ]
    )
