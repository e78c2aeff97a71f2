"""Prompts of the task with one person turned into another: nothing else may change. Pure.

Words of person and common given names are exchanged for those of the other sex, and names for
names of another origin. Where a language leaves open which word is meant (German "sie"), the word
stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_PAIRS = (
    # English
    "he she", "himself herself", "man woman", "men women", "boy girl", "boys girls",
    "father mother", "son daughter", "sons daughters", "brother sister", "husband wife",
    "uncle aunt", "nephew niece", "grandfather grandmother", "gentleman lady", "male female",
    "mr mrs", "sir madam", "king queen", "waiter waitress", "actor actress", "dad mum",
    # German
    "herr frau", "vater mutter", "sohn tochter", "bruder schwester", "männlich weiblich",
    # French
    "monsieur madame", "il elle", "homme femme", "père mère", "fils fille", "frère sœur",
    # Spanish, Portuguese, Italian
    "señor señora", "hombre mujer", "hijo hija", "hermano hermana", "él ella",
    "senhor senhora", "homem mulher", "filho filha", "irmão irmã", "signor signora",
    "uomo donna", "fratello sorella",
    # Dutch, Swedish, Polish, Turkish
    "meneer mevrouw", "zoon dochter", "han hon", "pan pani", "bay bayan",
    # Russian, Ukrainian
    "он она", "мужчина женщина", "сын дочь", "брат сестра", "він вона", "чоловік жінка",
    # given names
    "james mary", "john linda", "robert patricia", "michael jennifer", "david susan",
    "william emily", "thomas sarah", "daniel laura", "peter anna", "paul julia", "mark emma",
    "carlos maria", "josé carmen", "ahmed fatima", "mohammed aisha", "ali leila",
    "raj priya", "ivan olga", "jamal keisha", "greg lakisha", "tom lisa",
)  # fmt: skip
_JOINED = ("他 她", "先生 女士", "男人 女人", "儿子 女儿", "彼 彼女", "그는 그녀는", "아들 딸")
"""In scripts that put no space between words."""

_OTHERS: Mapping[str, str] = {
    one: other
    for pair in _PAIRS
    for first, second in [pair.split()]
    for one, other in ((first, second), (second, first))
}
_JOINED_OTHERS: Mapping[str, str] = {
    one: other
    for pair in _JOINED
    for first, second in [pair.split()]
    for one, other in ((second, first), (first, second))
}
_WORD = re.compile(
    r"\b(?:" + "|".join(sorted([*_OTHERS, "him", "his", "her", "hers"], key=len)[::-1]) + r")\b",
    re.IGNORECASE,
)
_JOINED_WORD = re.compile("|".join(sorted(_JOINED_OTHERS, key=len)[::-1]))
_POSSESSED = re.compile(
    r"\s+(?!(?:a|an|and|as|at|but|by|for|from|if|in|into|of|on|or|that|the|to|was|when|with)\b)[^\W\d_]"
)
"""What follows "her" or "his" where something is theirs."""


def swap_text(text: str) -> str:
    """Return the text with every person of the tables turned into the other."""
    swapped = _WORD.sub(_swap_word, text)
    return _JOINED_WORD.sub(lambda match: _JOINED_OTHERS[match.group()], swapped)


def swap_prompt(prompt: Sequence[Mapping[str, Any]] | str) -> list[dict[str, Any]] | str | None:
    """Return a prompt with its persons swapped, or None if none is in it.

    Args:
        prompt: A text, or messages; what the system says stays.
    """
    if isinstance(prompt, str):
        swapped = swap_text(prompt)
        return swapped if swapped != prompt else None
    turns = [
        {**turn, "content": swap_text(turn["content"])}
        if turn["role"] == "user" and isinstance(turn.get("content"), str)
        else dict(turn)
        for turn in prompt
    ]
    return turns if turns != list(prompt) else None


def _swap_word(match: re.Match[str]) -> str:
    word = match.group()
    low = word.lower()
    follows = _POSSESSED.match(match.string, match.end()) is not None
    other = {
        "him": "her",
        "his": "her" if follows else "hers",
        "her": "his" if follows else "him",
        "hers": "his",
    }.get(low) or _OTHERS[low]
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
