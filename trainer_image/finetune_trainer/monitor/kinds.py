"""What kind of text something is: its language, and the form of an answer. Pure.

A kind is a sign of change, not a finding: it only has to be the same for the same kind of text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

from finetune_trainer.evaluate.metrics.words import split_words
from finetune_trainer.monitor.vocabulary import MAX_CHARACTERS

NUM_REMEMBERED = 100
"""Texts whose language is remembered: each of several signals asks for that of the same text."""

_FUNCTION_WORDS = {
    "English": "the and of to is in that for it with you this are what how my on be i can please",
    "German": "der die und das ist nicht ein eine zu den von mit für auf wie ich im was wir bitte",
    "French": "le la les et des est une un du pour dans que qui je vous pas sur au avec ce comment",
    "Spanish": "el los y es una un del para con que por se no las al como su mi lo cómo qué",
    "Italian": "il di che è un una per non sono con del le gli della mi si come lo nel alla ho",
    "Portuguese": "o os e é um uma do da em para não com que se por na no mais como eu ao você",
    "Dutch": "de het een en van is niet dat op te voor met zijn ik hoe wat je er aan om deze",
    "Polish": "i w nie na się jest z do to że jak o co dla po czy mi od jest przez są",
    "Swedish": "och att det är en ett för på med jag inte den av till hur kan vad har om",
    "Turkish": "ve bir için ile de da ne mi çok daha var olarak ben olan gibi en neden",
}
_LANGUAGES_OF: dict[str, list[str]] = {}
for _language, _words in _FUNCTION_WORDS.items():
    for _word in set(_words.split()):
        _LANGUAGES_OF.setdefault(_word, []).append(_language)

_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s", re.MULTILINE)
_TABLE_ROW = re.compile(r"^\s*\|.*\|\s*$", re.MULTILINE)


def language_of(text: str) -> str | None:
    """Return a language of Latin letters, by its most frequent words, else the script; or None.

    A text of Latin letters without such words is ``LATIN``; one without letters has no language.
    """
    return _language_of(text[:MAX_CHARACTERS])


@lru_cache(maxsize=NUM_REMEMBERED)
def _language_of(text: str) -> str | None:
    if not any(map(str.isalpha, text)):
        return None
    script = "LATIN"
    if not text.isascii():
        letters = filter(str.isalpha, text)
        scripts = Counter(unicodedata.name(each, "").partition(" ")[0] for each in letters)
        script = max(sorted(scripts), key=lambda each: scripts[each])
    if script != "LATIN":
        return script
    # A word of several languages speaks for each of them, but less.
    found: Counter[str] = Counter()
    for word in split_words(text):
        languages = _LANGUAGES_OF.get(word, [])
        for language in languages:
            found[language] += 12 // len(languages)
    return max(sorted(found), key=lambda each: found[each]) if found else script


def format_of(text: str) -> str:
    """Return the form of an answer: JSON, code, a table, a list, several lines, or one."""
    stripped = text.strip()
    if stripped[:1] in ("{", "[") and stripped[-1:] in ("}", "]"):
        return "json"
    if "```" in stripped:
        return "code"
    if len(_TABLE_ROW.findall(stripped)) > 1:
        return "table"
    if len(_LIST_ITEM.findall(stripped)) > 1:
        return "list"
    return "lines" if "\n" in stripped else "line"
