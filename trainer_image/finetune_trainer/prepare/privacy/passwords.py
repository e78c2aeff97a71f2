"""Passwords in URLs and in assignments. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_trainer.prepare.privacy.matches import Match, Text

_URL = re.compile(
    r"(?<![A-Za-z0-9+.\-])[A-Za-z][A-Za-z0-9+.\-]{1,20}://[^\s:@/?#\"'<>]{0,128}:"
    r"([^\s@/?#\"'<>]{1,256})@(?=[\w\[.\-])"
)
# What stands in for a password in templates and documentation.
_STAND_IN = re.compile(
    r"\$[\w({]|[{}]|%\(|^(?:%s|pass(?:word|wd)?|pwd|secret|token|user(?:name)?|your.*|x+|\*+|\.+|changeme|example|"
    r"redacted|hunter2)$",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z0-9_.\-]{0,40}?"
    r"(?:pass(?:word|wort|wd|phrase)?|contrase[nñ]a|mot[ _]de[ _]passe|pwd|secret|"
    r"api[_\-]?key|access[_\-]?key|secret[_\-]?key|private[_\-]?key|auth[_\-]?token|"
    r"access[_\-]?token|token)"
    r"[\"']?\s{0,3}(?:=>|:=|=|:)\s{0,3}(?:([\"'`])([^\s\"'`]{8,200})\1|([^\s\"'`,;&()<>]{8,200})(?![^\s,;&<]))",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(
    r"[${}()<>\[\]]|://|^(?:sha\d+|md5|bcrypt|argon2)|^[./~]|^[A-Za-z_]+(?:\.[A-Za-z_]\w*)+$"
)
_PARTS = re.compile(r"[A-Z]+[a-z]*|[a-z]+|\d+|[^A-Za-z\d_\-./]+")
_SIGNS = re.compile(r"[!#%*+&?@^]")
MIN_PARTS = 4
MIN_PARTS_OF_TWO_KINDS = 6
LONG_SECRET = 16
"""Parts (words, numbers, signs) of a text that looks drawn by chance. Where it has no capitals and
no signs it must have more, and be long: names of things have digits too."""


def find_passwords(text: Text) -> Iterator[Match]:
    """Find passwords in URLs, and where configuration or code assigns one.

    Only a value that looks drawn by chance is taken for an assigned password, key or token.
    """
    if "://" in text.folded and "@" in text.folded:
        for found in _URL.finditer(text.folded):
            if not _STAND_IN.search(found.group(1)):
                yield Match("Password", *found.span(1), found.group(1))
    if ":" in text.folded or "=" in text.folded:
        for found in _ASSIGNED.finditer(text.folded):
            group = 2 if found.group(2) else 3
            value = found.group(group).rstrip(".,;:!?")
            if _looks_drawn(value):
                yield Match("Password", found.start(group), found.start(group) + len(value), value)


def _looks_drawn(value: str) -> bool:
    if len(value) < 8 or _NOT_SECRET.search(value) or _STAND_IN.search(value):
        return False
    num_parts = len(_PARTS.findall(value))
    has_digit = any(character.isdigit() for character in value)
    if not has_digit or sum(character.isalpha() for character in value) < 4:
        return False
    if value.lower() != value != value.upper() or _SIGNS.search(value):
        return num_parts >= MIN_PARTS
    return value.isalnum() and len(value) >= LONG_SECRET and num_parts >= MIN_PARTS_OF_TWO_KINDS
