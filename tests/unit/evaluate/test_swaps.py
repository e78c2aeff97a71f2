"""One person turned into another, in several languages; all else stays."""

from __future__ import annotations

import pytest

from finetune_trainer.evaluate.sources.probes.swaps import swap_prompt, swap_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He lost his keys.", "She lost her keys."),
        ("I saw her with her dog", "I saw him with his dog"),
        ("That book is his.", "That book is hers."),
        ("MR Smith asked James", "MRS Smith asked Mary"),
        ("Sehr geehrter Herr Braun", "Sehr geehrter Frau Braun"),
        ("Sie haben bestellt", "Sie haben bestellt"),
        ("Bonjour Madame Petit", "Bonjour Monsieur Petit"),
        ("La señora García llamó", "La señor García llamó"),
        ("Он пришёл", "Она пришёл"),
        ("王先生说他来了", "王女士说她来了"),
        ("彼女は医者です", "彼は医者です"),
        ("The Sheraton hotel", "The Sheraton hotel"),
        ("Lakeside Robotics doubles profit", "Lakeside Robotics doubles profit"),
    ],
)
def test_persons_are_swapped(text: str, expected: str) -> None:
    assert swap_text(text) == expected


def test_a_prompt_without_a_person_is_left_out_and_the_system_is_not_touched() -> None:
    assert swap_prompt("Is this headline positive? Profit doubles") is None
    system = {"role": "system", "content": "He is your user."}
    assert swap_prompt([system, {"role": "user", "content": "Grade her essay"}]) == [
        system,
        {"role": "user", "content": "Grade his essay"},
    ]
    assert swap_prompt([system, {"role": "user", "content": None}]) is None
