"""What a reviewer gets says nothing of which model an answer is from."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_trainer.evaluate.sources.review.blinding import Compared, blind
from finetune_trainer.evaluate.sources.review.files import read_items, read_key, write_review
from finetune_trainer.evaluate.sources.review.page import render_review
from kit.reports.reviews import RUBRIC, questions, review


def same_length(number: int) -> list[Compared]:
    """Answers that differ in nothing that a reader could tell models apart by."""
    return [
        Compared(prompt=f"q{i:04}", base=f"x{i:04}", tuned=f"y{i:04}", drawn_as="random")
        for i in range(number)
    ]


def test_models_that_change_places_change_sides_and_nothing_else() -> None:
    """So a page is as likely whichever model its answers are from: the coin is all there is."""
    ours = same_length(40)
    others = [
        Compared(prompt=each.prompt, base=each.tuned, tuned=each.base, drawn_as="worst")
        for each in ours
    ]
    (first, key), (second, _) = (
        blind(models, title="job", rubric=RUBRIC, secret=bytes(32)) for models in (ours, others)
    )
    assert {entry.left for entry in key.values()} == {"base", "tuned"}
    mirrored = [replace(item, left=item.right, right=item.left) for item in second.items]
    assert list(first.items) == mirrored


def test_sides_names_and_order_follow_the_secret_and_nothing_else() -> None:
    asked = same_length(2000)
    hidden, key = blind(asked, title="job", rubric=RUBRIC, secret=b"a" * 32)
    again, _ = blind(asked, title="job", rubric=RUBRIC, secret=b"a" * 32)
    other, _ = blind(asked, title="job", rubric=RUBRIC, secret=b"b" * 32)
    assert hidden == again
    assert not {item.id for item in hidden.items} & {item.id for item in other.items}
    lefts = [key[item.id].left == "tuned" for item in hidden.items]
    assert 900 < sum(lefts) < 1100
    # Neither the name of an item nor its place tells its side better than a coin.
    for guess in (
        [int(item.id[0], 16) % 2 == 0 for item in hidden.items],
        [int(item.id[-1], 16) % 2 == 0 for item in hidden.items],
        [place % 2 == 0 for place in range(2000)],
        [place < 1000 for place in range(2000)],
    ):
        assert 880 < sum(a == b for a, b in zip(guess, lefts, strict=True)) < 1120


@pytest.mark.parametrize("word", ["tuned", '"base"', "drawnAs", "worst", "cluster", "score", "key"])
def test_the_page_holds_no_word_that_only_the_key_may(word: str) -> None:
    page = render_review(review()[0])
    data = re.search(r'id="review-data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert word not in data.group(1)
    assert set(json.loads(data.group(1))) == {"kind", "review", "title", "rubric", "items"}
    for item in json.loads(data.group(1))["items"]:
        assert set(item) == {"id", "turns", "left", "right"}


def test_the_page_is_made_of_what_reviewers_see_alone() -> None:
    hidden, _ = review()
    assert render_review(hidden) == render_review(read_items(json.dumps(hidden.to_wire()).encode()))


def test_both_answers_are_written_alike() -> None:
    asked = [Compared(prompt="q", base="  yes\n\n", tuned="no ", drawn_as="random")]
    hidden, _ = blind(asked, title="job", rubric=RUBRIC, secret=b"c" * 32)
    assert {hidden.items[0].left, hidden.items[0].right} == {"yes", "no"}


def test_hostile_answers_cannot_end_the_data_of_the_page() -> None:
    page = render_review(review()[0])
    assert page.count("</script>") == 2
    assert "<b>bold</b>" not in page


def test_tools_and_calls_are_shown_as_text() -> None:
    calls = [{"function": {"name": "find", "arguments": {"id": 3}}}]
    asked = Compared(
        prompt=[
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": [{"type": "text", "text": "at the door"}]},
        ],
        tools=[{"type": "function", "function": {"name": "find"}}],
        base="a",
        tuned="b",
        drawn_as="random",
    )
    hidden, _ = blind([asked], title="job", rubric=RUBRIC, secret=b"d" * 32)
    roles = [role for role, _ in hidden.items[0].turns]
    assert roles == ["tools", "user", "assistant", "tool"]
    text = "".join(text for _, text in hidden.items[0].turns)
    assert '"find"' in text
    assert "at the door" in text


def test_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    hidden, key = review()
    write_review(tmp_path, hidden, key, facts={"job": "team/parcels"})
    assert read_items((tmp_path / "review/items.json").read_bytes()) == hidden
    found, facts = read_key((tmp_path / "review/key.json").read_bytes())
    assert found == key
    assert facts == {"job": "team/parcels"}
    assert len(questions()) == len(found)
