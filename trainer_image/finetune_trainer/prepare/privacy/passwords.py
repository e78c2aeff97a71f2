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
    r"[$%{]|^(?:pass(?:word|wd)?|pwd|secret|token|user(?:name)?|your.*|x+|\*+|\.+|changeme|example|"
    r"redacted|hunter2)$",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z0-9_.\-]{0,40}?"
    r"(?:password|passwort|passwd|passphrase|contrase[nñ]a|mot[ _]de[ _]passe|pwd|secret|"
    r"api[_\-]?key|access[_\-]?key|secret[_\-]?key|private[_\-]?key|auth[_\-]?token|"
    r"access[_\-]?token|token)"
    r"[\"']?\s{0,3}(?:=>|:=|=|:)\s{0,3}(?:([\"'`])([^\s\"'`]{8,200})\1|([^\s\"'`,;&()<>]{8,200})(?![^\s,;&<]))",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(
    r"[${}()<>\[\]]|://|^(?:sha\d+|md5|bcrypt|argon2)|^[./~]|^[A-Za-z_]+(?:\.[A-Za-z_]\w*)+$"
)
_KINDS = re.compile(r"[A-Z]+[a-z]*|[a-z]+|\d+|[^A-Za-z\d]+")
MIN_CHANGES = 4
"""Changes between letters, digits and signs within a text that looks drawn by chance."""


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
    letters = sum(character.isalpha() for character in value)
    digits = sum(character.isdigit() for character in value)
    parts = _KINDS.findall(value)
    return letters >= 4 and digits >= 1 and len(parts) > MIN_CHANGES
