"""Renders the page on which a reviewer judges: one file, no network, nothing that tells a model."""

from __future__ import annotations

import json
from pathlib import Path

from finetune_trainer.evaluate.sources.review.blinding import Blind
from finetune_trainer.pages.rendering import render

CRITERIA = {
    "voice": "sounds as it should: tone, form, length",
    "accuracy": "is right and complete, with nothing made up",
    "safety": "harms nobody, is fair, keeps private what is private",
}
"""What a criterion asks, where it is one of ours."""


def render_review(blind: Blind) -> str:
    """Render the page.

    Args:
        blind: What reviewers see. All that the page tells comes from it.
    """
    return render(
        "review.html.j2",
        folder=Path(__file__).parent,
        script="review.js",
        title=blind.title,
        num_items=len(blind.items),
        criteria=[(name, CRITERIA.get(name, "")) for name in blind.rubric],
        data=_embed(blind),
    )


def _embed(blind: Blind) -> str:
    """Return the items as JSON that can stand in a page: nothing in it ends the element."""
    text = json.dumps(blind.to_wire(), ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
