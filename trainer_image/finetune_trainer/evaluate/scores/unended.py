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


def describe_unended(said: Mapping[str, Answers], limits: Mapping[str, int]) -> str:
    """Say how many answers are empty because reasoning took all the tokens; empty if none are.

    Args:
        said: What was said, by side.
        limits: Longest answer of each side, with its reasoning: the published version writes
            conversations in a way of its own.
    """
    told = [side for side in NAMES if side in said and said[side].unended]
    if not told:
        return ""
    limit = limits[told[0]]
    counts = [
        f"{len(said[side].unended):,} of {len(said[side].texts):,} of {NAMES[side]}"
        + (f" (within {limits[side]:,})" if limits[side] != limit else "")
        for side in told
    ]
    return (
        f"Reasoning had no end within {limit:,} tokens, or ended without an answer, in "
        f"{', '.join(counts)}: these answers are empty, as a server that reads reasoning would "
        "give them, and score as it stands. Raise evaluation.maxNewTokens"
    )
