"""Tells which answers were lost to reasoning that had no end. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_trainer.evaluate.metrics.answers import Answers

NAMES = {
    "base": "the base model",
    "prompted": "the base model with a prompt",
    "tuned": "the tuned model",
    "published": "the published version",
}


def tell_unended(said: Mapping[str, Answers], *, answer_tokens: int) -> str:
    """Say how many answers are empty because reasoning took all the tokens; empty if none are.

    Args:
        said: What was said, by side.
        answer_tokens: Longest answer, with its reasoning.
    """
    counts = [
        f"{len(said[side].unended):,} of {len(said[side].texts):,} of {name}"
        for side, name in NAMES.items()
        if side in said and said[side].unended
    ]
    if not counts:
        return ""
    return (
        f"Reasoning had no end within {answer_tokens:,} tokens, or ended without an answer, in "
        f"{', '.join(counts)}: these answers are empty, as a server that reads reasoning would "
        "give them, and score as it stands. Raise evaluation.maxNewTokens"
    )
