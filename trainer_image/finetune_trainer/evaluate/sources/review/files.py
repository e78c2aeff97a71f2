"""The files of a review: what an evaluation leaves for reviewers, and the key beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_trainer.evaluate.sources.review.blinding import Blind, Compared, Item, KeyEntry
from finetune_trainer.evaluate.sources.review.page import render_review

FOLDER = "review"
"""Below the folder of the evaluation."""
PAGE_NAME = f"{FOLDER}/page.html"
ITEMS_NAME = f"{FOLDER}/items.json"
KEY_NAME = f"{FOLDER}/key.json"


def write_review(
    folder: Path, blind: Blind, key: Mapping[str, KeyEntry], *, facts: Mapping[str, Any]
) -> None:
    """Write page, items and key below the folder of an evaluation.

    Args:
        folder: The evaluation's local folder.
        blind: What reviewers see.
        key: Which model is where.
        facts: What the panel's file tells of the review beside its verdicts.
    """
    (folder / FOLDER).mkdir(exist_ok=True)
    (folder / PAGE_NAME).write_text(render_review(blind), encoding="utf-8")
    _write(folder / ITEMS_NAME, blind.to_wire())
    items = {name: {"left": entry.left, **_compared_to_wire(entry.compared)}
             for name, entry in key.items()}  # fmt: skip
    wire = {"kind": "ReviewKey", "review": blind.digest, "facts": dict(facts), "items": items}
    _write(folder / KEY_NAME, wire)


def read_items(data: bytes) -> Blind:
    """Read ``items.json``."""
    body = json.loads(data)
    items = tuple(
        Item(
            id=item["id"],
            turns=tuple((turn["role"], turn["text"]) for turn in item["turns"]),
            left=item["left"],
            right=item["right"],
        )
        for item in body["items"]
    )
    return Blind(title=body["title"], rubric=tuple(body["rubric"]), items=items)


def read_key(data: bytes) -> tuple[dict[str, KeyEntry], dict[str, Any]]:
    """Read ``key.json``: which model is where, and the facts of the review."""
    body = json.loads(data)
    key = {
        name: KeyEntry(
            left=item["left"],
            compared=Compared(
                prompt=item["prompt"],
                tools=item.get("tools"),
                base=item["base"],
                tuned=item["tuned"],
                drawn_as=item["drawnAs"],
                cluster=item["cluster"],
            ),
        )
        for name, item in body["items"].items()
    }
    return key, body["facts"]


def _compared_to_wire(compared: Compared) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "prompt": compared.prompt,
        "base": compared.base,
        "tuned": compared.tuned,
        "drawnAs": compared.drawn_as,
        "cluster": compared.cluster,
    }
    return {**wire, "tools": compared.tools} if compared.tools else wire


def _write(path: Path, body: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(body, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
