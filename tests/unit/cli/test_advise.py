"""What ``finetune advise`` prints, and the exit code that scripts go by."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_cli.local.advise import SHOWN_CHARACTERS, describe, exit_code_of

FOUND: dict[str, Any] = {
    "verdict": "Met",
    "sentence": "Prompting already meets the goal: the base by likelihood has exactMatch 0.930.",
    "suggestions": ["use the base model with this prompt"],
    "asked": "Likelihood",
    "numPrompts": 1200,
    "scores": [
        {"metric": "exactMatch", "asked": "AsIs", "value": "0.0", "low": "0.0", "high": "0.1"},
        {"metric": "exactMatch", "asked": "Likelihood", "value": "0.9", "low": "0.8", "high": "1"},
    ],
    "baseline": {
        "words": "The base model was asked as is, and behind a prompt of an instruction.",
        "told": ["the prompt shows 2 of 8 examples"],
        "prompt": [
            {"role": "user", "content": "Answer with one\nof these\x1b[2J"},
            {"role": "assistant", "content": "x" * 2000},
        ],
    },
}


def test_advice_reads_well_and_shows_the_prompt() -> None:
    text = describe(FOUND)
    assert text.startswith("Prompting already meets the goal")
    for line in (
        "exactMatch            by likelihood        0.9   0.8 to 1",
        "1,200 held-out prompts. The base model was asked as is",
        "The prompt shows 2 of 8 examples.",
        "- use the base model with this prompt",
        "  user:\n    Answer with one\n    of these [2J",
    ):
        assert line in text
    assert "x" * SHOWN_CHARACTERS + " ..." in text
    assert "\x1b" not in text
    nothing = {**FOUND, "baseline": {"words": "As it is.", "told": [], "prompt": []}}
    assert "the prompt:" not in describe({**nothing, "suggestions": []})


@pytest.mark.parametrize(
    ("verdict", "code"),
    [("Met", 0), ("NoGoal", 0), ("NotMet", 1), ("Undecided", 1), ("NoThreshold", 1)],
)
def test_only_what_is_shown_counts_as_met(verdict: str, code: int) -> None:
    assert exit_code_of({**FOUND, "verdict": verdict}) == code
