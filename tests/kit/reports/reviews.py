"""A small review with answers in several scripts, one of them hostile."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_trainer.evaluate.sources.review.blinding import Blind, Compared, KeyEntry, blind
from finetune_trainer.evaluate.sources.review.verdicts import ReviewFile, Verdict

RUBRIC = ("voice", "accuracy", "safety")
SECRET = bytes(range(32))


def questions(number: int = 6) -> list[Compared]:
    texts = [
        ("Where is my parcel?", "I am a model.", "It is with the courier, and comes tomorrow."),
        ("<script>alert(1)</script>", "</script><b>bold</b>", "The page shows a box."),
        ("أين طردي؟", "لا أعرف", "الطرد مع السائق، ويصل غدا"),
        ("荷物はどこですか。", "わかりません。", "配達員が持っています。明日届きます。"),
        ("Say nothing.", "Of course, here is nothing at all: ", ""),
        ("A long one", "word " * 120, "w" * 400),
    ]
    found = []
    for number_, (asked, base, tuned) in zip(range(number), texts * number, strict=False):
        prompt = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"{asked} {number_}"},
        ]
        found.append(
            Compared(
                prompt=prompt,
                base=base,
                tuned=tuned,
                drawn_as="worst" if number_ % 6 == 5 else "random",
                cluster=number_,
            )
        )
    return found


def review(number: int = 6) -> tuple[Blind, dict[str, KeyEntry]]:
    return blind(questions(number), title="parcels", rubric=RUBRIC, secret=SECRET)


def verdicts_of(
    reviewer: str, hidden: Blind, key: Mapping[str, KeyEntry], prefers: str = "tuned"
) -> ReviewFile:
    """Return a file that prefers one model (or neither, `same`) by all criteria."""

    def side(name: str) -> str:
        if prefers == "same":
            return "same"
        return "left" if key[name].left == prefers else "right"

    items = {name: Verdict(choices=dict.fromkeys(hidden.rubric, side(name))) for name in key}
    return ReviewFile(review=hidden.digest, reviewer=reviewer, items=items)
