"""Uneven short chat rows, generated: most are short, a few are long, as in real support data."""

from __future__ import annotations

import random
from typing import Any

WORDS = [
    "order",
    "refund",
    "parcel",
    "invoice",
    "account",
    "delivery",
    "payment",
    "colour",
    "size",
    "return",
    "help",
    "thanks",
]


def chat_rows(num_rows: int, *, seed: int = 7) -> list[dict[str, Any]]:
    """Return prompt/completion message rows with log-normal lengths (median about 40 words)."""
    rng = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        size = min(400, max(4, int(rng.lognormvariate(3.3, 0.9))))
        question = " ".join(rng.choices(WORDS, k=size))
        answer = " ".join(rng.choices(WORDS, k=max(3, size // 3)))
        rows.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
            }
        )
    return rows
