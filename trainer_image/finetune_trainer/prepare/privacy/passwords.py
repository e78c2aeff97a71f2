"""Passwords and tokens where something says that they are: URLs, headers, assignments. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_api.v1alpha1.spec.privacy import Entity
from finetune_trainer.prepare.privacy.matches import Match, Text

_URL = re.compile(
    r"(?<![A-Za-z0-9+.\-])[A-Za-z][A-Za-z0-9+.\-]{1,20}://[^\s:@/?#\"'<>]{0,128}:"
    r"([^\s@/?#\"'<>]{1,256})@(?=[\w\[.\-])"
)
_JDBC = re.compile(r"(?<![A-Za-z])jdbc:[a-z0-9]{2,20}:[^\s\"'`<>]{1,600}", re.IGNORECASE)
_IN_JDBC = re.compile(
    r"(?:[?&;:,](?:password|pwd|trustStorePassword|keyStorePassword)=(\{[^{}]{1,200}\}|[^;&,]{1,200})"
    r"|:thin:[^/@]{1,60}/([^@]{1,200})@)",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"authorization[\"']?\s{0,3}[:=,]\s{0,3}[\"']?(bearer|basic|token|apikey|api-key|sswg|ssws|key)"
    r"[ =]{1,3}([A-Za-z0-9\-._~+/]{8,2000}={0,2})",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\bBearer ([A-Za-z0-9\-._~+/]{20,2000}={0,2})")
# Stand-ins for passwords in templates and documentation.
_STAND_IN = re.compile(
    r"\$[\w({]|[{}]|%\(|^(?:%s|pass(?:word|wd)?|pwd|secret|token|user(?:name)?|your.*|x+|\*+|\.+|changeme|example|"
    r"redacted|hunter2)$",
    re.IGNORECASE,
)
_LOGIN_NAMES = "|".join(
    (r"pass(?:word|wort|wd|phrase|code)?", "kennwort", "contrase[nñ]a", "senha", "wachtwoord",
     "mot[ _]de[ _]passe", "pwd", "psk")
)  # fmt: skip
_KEY_NAMES = (
    r"secret|(?:api|access|secret|private|auth|admin|account|app|master|encryption|signing|licen[sc]e|"
    r"service|client|server|user|bot|shared|storage|session|deploy|write|read)[_\-]?key|token|[\"']auth"
)
_ASSIGNED = re.compile(
    rf"(?:({_LOGIN_NAMES})|{_KEY_NAMES}|(?-i:[A-Z0-9]_(?:KEY|PAT|PASS|CREDENTIALS?)))"
    r"(?:[\"']?\s{0,3}(?:=>|:=|=|:)|[\"'],)\s{0,3}"
    r"(?:([\"'`])([^\s\"'`]{8,200})\2|([^\s\"'`,;&()<>]{8,200})(?![^\s,;&<\"'`)}\]]))",
    re.IGNORECASE,
)
_ELEMENT = re.compile(
    r"<[\w:.\-]{0,30}(?:password|passwd|pwd|passphrase|secret|token|apikey)>([^<>\s]{8,200})</",
    re.IGNORECASE,
)
_PAIRED = re.compile(
    rf"name[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?[\w.\-]{{0,40}}"
    rf"(?:{_LOGIN_NAMES}|pass|{_KEY_NAMES}|_key)[\"']?,?\s{{1,12}}"
    r"[\"']?value[\"']?\s{0,3}[:=]\s{0,3}[\"']?([^\s\"'<>]{8,200})",
    re.IGNORECASE,
)
_PGPASS = re.compile(r"(?m)^[\w.\-*]{1,100}:(?:\d{2,5}|\*):[\w\-*]{1,63}:[\w\-*]{1,63}:(\S{8,64})$")
_SPOKEN = re.compile(
    rf"\b(?:{_LOGIN_NAMES})(?: (?:is|was|ist|lautet|war|est|es|[ée]|:)|:)?\s{{1,3}}"
    r"[\"'`]?([^\s\"'`<>]{8,64})",
    re.IGNORECASE,
)
_COMMAND = re.compile(
    r"(?<!\S)(?:(?:-u|--user|--proxy-user)[ =]?[\"']?[\w.@\-]{1,64}:|(?:-p|--pass)[ =]?[\"']?)"
    r"([^\s\"'@/]{8,64})"
)
_SECURE_STRING = re.compile(
    r"ConvertTo-SecureString\s{1,3}(?:-String\s{1,3})?[\"']([^\"'\s]{8,64})"
)
_HINTS = (
    "pass", "pwd", "psk", "secret", "key", "token", "_pat", "credential", "contrase", "kennwort",
    "senha", "wachtwoord", "mot de",
)  # fmt: skip
_NOT_SECRET = re.compile(
    r"[${}()<>\[\]]|://|^(?:sha\d+|md5|bcrypt|argon2)|^[./~]|^[A-Za-z_]+(?:\.[A-Za-z_]\w*)+$"
)
_PARTS = re.compile(r"[A-Z]+[a-z]*|[a-z]+|\d+|[^A-Za-z\d_\-./]+")
_SIGNS = re.compile(r"[!#%*+&?@^]")
_UUID = re.compile(r"[a-f0-9]{8}(?:-[a-f0-9]{4}){3}-[a-f0-9]{12}", re.IGNORECASE)
_HEX = re.compile(r"(?<![A-Za-z0-9])(?=[a-f]*\d)(?=\d*[a-f])[a-f0-9]{32,64}(?![A-Za-z0-9])")
MIN_PARTS = 4
MIN_PARTS_OF_PASSWORD = 3
MIN_PARTS_OF_TWO_KINDS = 6
LONG_SECRET = 16
"""Parts (words, numbers, signs) of a text that looks drawn by chance. Where it has no capitals and
no signs it must have more, and be long: names of things have digits too."""


def find_passwords(text: Text) -> Iterator[Match]:
    """Find passwords in URLs, headers, configuration, code and commands.

    An assigned value counts only if it looks random.
    """
    folded, lowered = text.folded, text.lowered
    if "://" in folded and "@" in folded:
        for found in _URL.finditer(folded):
            if not _STAND_IN.search(found.group(1)):
                yield Match("Password", *found.span(1), found.group(1))
    if "jdbc:" in lowered:
        yield from _find_in_jdbc(folded)
    if "authorization" in lowered or "Bearer " in folded:
        yield from _find_in_headers(folded)
    for hint in _HINTS:
        if hint in lowered:
            yield from _find_assigned(folded)
            break
    if folded.count(":") >= 4:
        for found in _PGPASS.finditer(folded):
            yield from _drawn(found, 1, MIN_PARTS)
    if "-u" in folded or "-p" in folded or "SecureString" in folded:
        for pattern in (_COMMAND, _SECURE_STRING):
            for found in pattern.finditer(folded):
                yield from _drawn(found, 1, MIN_PARTS)


def _find_in_jdbc(folded: str) -> Iterator[Match]:
    for url in _JDBC.finditer(folded):
        for found in _IN_JDBC.finditer(url.group()):
            group = 1 if found.group(1) else 2
            value = found.group(group)
            start = url.start() + found.start(group)
            if value.startswith("{"):  # the braces of SQL Server, or of a template
                value, start = value[1:-1], start + 1
            if not _STAND_IN.search(value) and not value.startswith("$"):
                yield Match("Password", start, start + len(value), value)


def _find_in_headers(folded: str) -> Iterator[Match]:
    for found in _HEADER.finditer(folded):
        value = found.group(2)
        is_mixed = value.lower() != value != value.upper()
        has_digit = any(character.isdigit() for character in value)
        if len(set(value)) >= 8 and (has_digit or is_mixed) and not _STAND_IN.search(value):
            kind: Entity = "Password" if found.group(1).lower() == "basic" else "APIKey"
            yield Match(kind, *found.span(2), value)
    for found in _BEARER.finditer(folded):
        if looks_drawn(found.group(1), MIN_PARTS_OF_TWO_KINDS):
            yield Match("APIKey", *found.span(1), found.group(1))


def _find_assigned(folded: str) -> Iterator[Match]:
    for found in _ASSIGNED.finditer(folded):
        group = 3 if found.group(3) else 4
        yield from _drawn(found, group, MIN_PARTS_OF_PASSWORD if found.group(1) else MIN_PARTS)
    for pattern in (_ELEMENT, _PAIRED, _SPOKEN):
        for found in pattern.finditer(folded):
            yield from _drawn(found, 1, MIN_PARTS)


def _drawn(found: re.Match[str], group: int, min_parts: int) -> Iterator[Match]:
    value = found.group(group).rstrip(".,;:!?")
    if looks_drawn(value, min_parts):
        start = found.start(group)
        yield Match("Password", start, start + len(value), value)


def looks_drawn(value: str, min_parts: int = MIN_PARTS) -> bool:
    """Whether a value looks drawn by chance, and is no name, path, call or placeholder."""
    if len(value) < 8 or _NOT_SECRET.search(value) or _STAND_IN.search(value):
        return False
    if _UUID.fullmatch(value) or _HEX.search(value):
        return True
    num_parts = len(_PARTS.findall(value))
    has_digit = any(character.isdigit() for character in value)
    if not has_digit or sum(character.isalpha() for character in value) < 4:
        return False
    if value.lower() != value != value.upper() or _SIGNS.search(value):
        return num_parts >= min_parts
    return value.isalnum() and len(value) >= LONG_SECRET and num_parts >= MIN_PARTS_OF_TWO_KINDS
