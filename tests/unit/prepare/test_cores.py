"""What is left of prompts without markup and without what many of one side share."""

from __future__ import annotations

import pytest

from finetune_trainer.prepare.duplicates.cores import (
    MOST,
    NOT_FRAMED,
    SOME,
    find_frames,
    strip_markup,
)


@pytest.mark.parametrize(
    ("text", "core"),
    [
        ('<div class="q"><p>is it open&nbsp;today?</p></div>', "is it open today"),
        ("<!-- from the wiki --> caf&eacute; &amp; bar<br/>", "caf\u00e9 & bar"),
        ("## question **is it __open__ today**", "question is it open today"),
        ("```python print(1) ```", "print(1)"),
        ("if a < b and b > c then 2 ** 3 ** 4", "if a < b and b > c then 2 ** 3 ** 4"),
        ("what is (2)**3**(4) or 2**3**4", "what is (2)**3**(4) or 2**3**4"),
        ("请问**今天**营业吗", "请问今天营业吗"),
        ("<name>aromi</name> <area>riverside</area>", "<name>aromi</name> <area>riverside</area>"),
        ("call #5 # or &co; now", "call #5 or &co; now"),
    ],
)
def test_markup_goes_and_what_means_something_stays(text: str, core: str) -> None:
    assert strip_markup(text) == core


def numbered(frame: str, number: int, start: int = 0) -> list[str]:
    words = ("red", "green", "blue", "black")
    return [frame.format(f"{words[n % 4]} {n} things x{n}") for n in range(start, start + number)]


TASK = "please do for us with great care today the task: {}"


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (numbered("tell me now {}", 40), MOST),
        (numbered("{} tell me now", 40), MOST),
        (numbered(TASK, 10) + numbered("{}", 70, 10), SOME),
        (numbered(TASK, 9) + numbered("{}", 30, 9), NOT_FRAMED),
        (
            numbered(TASK.replace("for us ", "").replace("with great care ", ""), 10)
            + numbered("{}", 70, 10),
            NOT_FRAMED,
        ),
        (numbered(" ".join(f"w{n}" for n in range(300)) + " {}", 40), MOST),
        (numbered(" ".join(f"w{n}" for n in range(64)) + " {}", 10) + numbered("{}", 70, 10), SOME),
        (
            numbered(" ".join(f"w{n}" for n in range(65)) + " {}", 10) + numbered("{}", 70, 10),
            NOT_FRAMED,
        ),
    ],
    ids=[
        "beginning",
        "end",
        "of some",
        "of too few",
        "too short",
        "a system message",
        "long",
        "a text that is asked about",
    ],
)
def test_a_frame_is_long_and_shared_by_many(texts: list[str], kind: int) -> None:
    core, found, _ = find_frames([texts]).cut(texts[0])
    assert found == kind
    assert core == (texts[0] if kind == NOT_FRAMED else "red 0 things x0")


def test_a_prompt_that_is_all_frame_stays_as_it_is() -> None:
    frames = find_frames([numbered("tell me now {}", 40)])
    assert frames.cut("tell me")[:2] == ("tell me", NOT_FRAMED)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("opening", ["**a ", "__a ", "<!-- ", "<!doctype "])
def test_a_text_of_openings_alone_takes_no_square_of_its_length(opening: str) -> None:
    assert strip_markup(opening * 20_000).startswith(opening.strip())
