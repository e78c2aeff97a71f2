"""Passwords and tokens where something says that they are: URLs, headers, assignments. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_api.v1alpha1.spec.privacy import Entity
from finetune_trainer.prepare.privacy.matches import Match, Text
from finetune_trainer.prepare.privacy.secrets import looks_random

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
_TOKEN = re.compile(
    r"\b(?:(?:bearer )?token|(?:api|access|secret) key|bearer)(?: (?:is|was|ist|lautet|est|es))?"
    r"[:=]?\s{1,3}[\"'`]?([A-Za-z0-9\-._~+/]{16,2000}={0,2})",
    re.IGNORECASE,
)
# Stand-ins for passwords in templates and documentation.
_STAND_IN = re.compile(
    r"\$[\w({]|[{}]|%\(|^(?:%s|pass(?:word|wd)?|pwd|secret|token|user(?:name)?|your.*|x+|\*+|\.+|changeme|example|"
    r"redacted|hunter2)$",
    re.IGNORECASE,
)
_LOGIN_NAMES = "|".join(
    (r"pass(?:word|wort|wd|phrase|code)?", "kennwort", "contrase[nñ]a", "senha", "wachtwoord",
     "mot[ _]de[ _]passe", "pwd", "psk", "(?<![a-z])pw", "has[łl]o", "heslo", "парол[ья]",
     "l[öo]senord", "パスワード", "密[码碼]", "비밀번호", "(?:wi-?fi|wlan|network)[ _-]key")
)  # fmt: skip
_KEY_NAMES = (
    r"secret|(?:api|access|secret|private|auth|admin|account|app|master|encryption|signing|licen[sc]e|"
    r"service|client|server|user|bot|shared|storage|session|deploy|write|read)[_\-]?key|token|[\"']auth"
)
_ASSIGNED = re.compile(
    rf"(?:({_LOGIN_NAMES})|{_KEY_NAMES}|(?-i:[A-Z0-9]_(?:KEY|PAT|PASS|CREDENTIALS?)))"
    r"(?:(?:\[\d{0,3}\])?[\"']?\s{0,3}(?:=>|:=|->|=|:|\((?=[\"'`]))|[\"'],"
    r"|[\"']\)\.(?:type|fill|send_?keys|set_?value)\()\s{0,3}"
    r"(?:([\"'`])([^\s\"'`]{8,200})\2|([^\s\"'`,;&()<>]{8,200})(?![^\s,;&<\"'`)}\]]))",
    re.IGNORECASE,
)
_ELEMENT = re.compile(
    r"<[\w:.\-]{0,30}(?:password|passwd|pwd|passphrase|secret|token|apikey)>([^<>\s]{8,200})</",
    re.IGNORECASE,
)
_PAIRED = re.compile(
    rf"(?:name|key)[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?[\w.\-]{{0,40}}"
    rf"(?:{_LOGIN_NAMES}|pass|{_KEY_NAMES}|_key)[\"']?(?:>|,?\s{{1,12}}"
    r"[\"']?value[\"']?\s{0,3}[:=]\s{0,3}[\"']?)([^\s\"'<>]{8,200})",
    re.IGNORECASE,
)
_PGPASS = re.compile(r"(?m)^[\w.\-*]{1,100}:(?:\d{2,5}|\*):[\w\-*]{1,63}:[\w\-*]{1,63}:(\S{8,64})$")
_TICKETS = "|".join(
    rf"(?<=\b{name}[ \-])"
    for name in ("boarding", "season", "bus", "gift", "travel", "ski", "day", "press", "event")
)
_SPOKEN = re.compile(
    rf"(?:\b|(?<=_))(?!pass (?:to|for|on|of) |pass\s*\n|(?:{_TICKETS})pass\b)(?:{_LOGIN_NAMES})"
    r"((?: (?:for|of|to|on|für|von|zu|pour|para|de)(?: [\w'\-]{1,30}){1,4}?)?"
    r"(?:\s?[:=]| (?:is|was|ist|lautet|war|est|es|[ée]|(?:(?:re)?set |changed )?to|auf)"
    r"(?: now| jetzt)?))?\s{1,3}"
    r"[\"'`]?([^\s\"'`<>]{8,64})",
    re.IGNORECASE,
)
"""A password that a sentence says: "my password is Summer2024"."""
_COMMAND = re.compile(
    r"(?:(?<!\S)(?:(?:-[uU]|--user|--proxy-user)[ =]?[\"']?[\w.@\-]{1,64}[:,%]"
    r"|(?:-p|--pass|-(?:store|key|src|dest)pass)[ =]?[\"']?)"
    r"|\b(?:redis-cli|sshpass|ldap\w{2,12}|sqlcmd|bcp|isql|smbclient|mosquitto_\w{3}|xfreerdp)\b"
    r"[^\n|;&]{0,80}?\s-[aAwPX][ =]?[\"']?)(?![\w.\-]+=[^=\s])([^\s\"'@/]{8,64})"
)
_DIRECTIVE = re.compile(
    r"\b(?:(?:require|store|key|bind|root)(?:pass|pw)(?: --plaintext)?|masterauth|net user?"
    r"(?: \S{1,64}){1,2}(?= \S{8,64} /)|identified by|secret(?: \d)?|password \d"
    r"|(?-i:(?:AUTH|LOGIN)(?: [\w.@\-]{1,64})?)|wpa_passphrase \S{1,32}"
    r"|ConvertTo-SecureString(?: -String)?"
    r"|(?:login|credentials?|sqlplus|connect)\W{1,4}[\w.@\-]{1,64} ?/"
    r"|echo [\"']?(?:[\w.\-]{1,32}:)?(?=[^\s|]{8,66} ?\|[^|\n]{0,60}?(?:sudo|passwd|login)))"
    r"(?:\s{1,3}|(?<=[/:\"' ]))[\"']?([^\s\"'@;]{8,64})",
    re.IGNORECASE,
)
"""Configuration, SQL, protocols and commands whose next word is a password."""
_CALL = re.compile(
    r"(?:connect(?:ion)?|log_?[io]n|auth(?:enticate|entication)?|ldap_bind|bind_s|begin|credentials?|PDO"
    r"|mysqli|create_user|pw_set|AndPassword|ftp)=?\s?\([^()\n]*$",
    re.IGNORECASE,
)
"""A call whose arguments are a place or a name, and then a password."""
_LONGEST_CALL = 300
_ARGUMENT = re.compile(r",\s{0,3}[\"']([^\s\"']{8,64})[\"']")
_HINTS = (
    "pass", "pw", "psk", "secret", "key", "token", "_pat", "credential", "contrase", "kennwort",
    "senha", "wachtwoord", "mot de", "hasł", "haslo", "heslo", "парол", "senord", "パスワード",
    "密", "비밀", "masterauth", "net use", "identified by", "login", "sqlplus", "connect ",
    "connect(", "auth ", "sudo", "securestring",
)  # fmt: skip
_NOT_SECRET = re.compile(
    r"[${}()<>\[\]]|://|^(?:sha\d+|md5|bcrypt|argon2)|^[./~]|^[A-Za-z_]+(?:\.[A-Za-z_]\w*)+$"
)
_PARTS = re.compile(r"[A-Z]+[a-z]*|[a-z]+|\d+|[^A-Za-z\d_\-./]+")
_SIGNS = re.compile(r"[!#%*+&?@^]")
_NO_PASSWORD = re.compile(
    r"[{}()<>\[\]]|://|\$\w|^(?:sha\d|md5|bcrypt|argon2|[./~])|^[A-Za-z_]+(?:\.[A-Za-z_]\w*)+$"
    r"|^[\d.,]+-?(?:[a-z]+|[A-Z]+)(?:-[a-z]+)*$|^[A-Za-z]+-?\d+(?:-[A-Za-z]+)+$"
)
"""Words behind "password is" that are none, such as 8-digit, SHA256-hashed, a path or a call."""
_UUID = re.compile(r"[a-f0-9]{8}(?:-[a-f0-9]{4}){3}-[a-f0-9]{12}", re.IGNORECASE)
_HEX = re.compile(r"(?<![A-Za-z0-9])(?=[a-f]*\d)(?=\d*[a-f])[a-f0-9]{32,64}(?![A-Za-z0-9])")
MIN_PARTS = 4
MIN_PARTS_OF_PASSWORD = 3
MIN_PARTS_OF_ARGUMENT = 5
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
    if "authorization" in lowered or "bearer" in lowered or "token" in lowered or " key" in lowered:
        yield from _find_in_headers(folded)
    if any(map(lowered.__contains__, _HINTS)):
        yield from _find_assigned(folded)
    if folded.count(":") >= 4:
        for found in _PGPASS.finditer(folded):
            yield from _drawn(found, 1, MIN_PARTS)
    if "-" in folded:
        for found in _COMMAND.finditer(folded):
            yield from _drawn(found, 1, MIN_PARTS)
    for found in _ARGUMENT.finditer(folded):
        for match in _drawn(found, 1, MIN_PARTS_OF_ARGUMENT):
            if _CALL.search(folded, max(0, found.start() - _LONGEST_CALL), found.start()):
                yield match


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
    for found in _TOKEN.finditer(folded):
        value = found.group(1).rstrip(".")
        min_parts = MIN_PARTS if found.group()[0] in "Bb" else MIN_PARTS_OF_TWO_KINDS
        if looks_drawn(value, min_parts) or looks_random(value):
            yield Match("APIKey", found.start(1), found.start(1) + len(value), value)


def _find_assigned(folded: str) -> Iterator[Match]:
    for found in _ASSIGNED.finditer(folded):
        group = 3 if found.group(3) else 4
        yield from _drawn(found, group, MIN_PARTS_OF_PASSWORD if found.group(1) else MIN_PARTS)
    for pattern in (_ELEMENT, _PAIRED, _DIRECTIVE):
        for found in pattern.finditer(folded):
            yield from _drawn(found, 1, MIN_PARTS)
    for found in _SPOKEN.finditer(folded):
        value = found.group(2).rstrip(".,;:")
        is_said = found.group(1) or _SIGNS.search(value)
        if looks_drawn(value) or (is_said and is_password(value)):
            yield Match("Password", found.start(2), found.start(2) + len(value), value)


def _drawn(found: re.Match[str], group: int, min_parts: int) -> Iterator[Match]:
    value = found.group(group).rstrip(".,;:!?")
    if looks_drawn(value, min_parts):
        start = found.start(group)
        yield Match("Password", start, start + len(value), value)


def is_password(value: str) -> bool:
    """Return whether the word behind "password is" has letters, and digits or signs."""
    if len(value) < 8 or _NO_PASSWORD.search(value) or _STAND_IN.search(value):
        return False
    has_digit = any(character.isdigit() for character in value)
    is_long = len(_PARTS.findall(value)) >= (2 if has_digit else MIN_PARTS)
    return is_long and sum(map(str.isalpha, value)) >= 3 and (has_digit or value.lower() != value)


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
