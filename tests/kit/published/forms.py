"""Forms of personal data and secrets from public specifications, and what only looks like them.

``forms.txt`` names the source and the text of each, below its kind. The value stands between « and
»; without them the whole text is the value. ``~a36~`` stands for 36 characters drawn by seed (see
``draw_token``), so that the file holds no secret and no scanner takes it for one. ``≈`` stands for
a tilde.

Forms alternate between two halves by the digest of their text. Recognisers are tuned on ``tuned``;
of ``held-out`` only the figures are looked at.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import phonenumbers

from kit.planted import privacy_values as values

Half = Literal["tuned", "held-out"]
CLEAN = "clean"
_FILE = Path(__file__).with_name("forms.txt")
_TOKEN = re.compile(r"~([^~]+)~")
_ALPHABETS = {
    "h": values.HEX,
    "H": values.HEX.upper(),
    "d": values.DIGITS,
    "u": string.ascii_uppercase + values.DIGITS,
    "t": string.ascii_uppercase + "234567",
    "a": values.ALNUM,
    "l": string.ascii_lowercase + values.DIGITS,
    "c": string.ascii_lowercase,
    "C": string.ascii_uppercase,
    "w": values.BASE64URL,
    "b": values.ALNUM + "+/",
    "p": values.ALNUM + "!%*_",
}
_KEY_FRAMES = ("export KEY={v}", "{v}", '"token": "{v}",', "Here it is: {v}.", "--header 'x: {v}'")


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form.

    Attributes:
        kind: Its kind in the API, or ``clean``.
        source: Who published it.
        template: The text.
        half: Where it belongs.
    """

    kind: str
    source: str
    template: str
    half: Half


@dataclass(frozen=True, kw_only=True)
class Row:
    """A text of one form; ``start`` and ``end`` say where its value stands, 0 and 0 of no value."""

    form: Form
    text: str
    start: int
    end: int


def read_forms() -> list[Form]:
    """Return all forms, those of a kind alternating between the halves."""
    kind, parts = "", []
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        elif line:
            source, _, text = line.partition(" :: ")
            parts.append((kind, source, text))
    parts.sort(key=lambda part: (part[0], hashlib.sha256(part[2].encode()).digest()))
    halves: tuple[Half, Half] = ("tuned", "held-out")
    return [
        Form(kind=kind, source=source, template=text, half=halves[place % 2])
        for place, (kind, source, text) in enumerate(parts)
    ]


def make_rows(forms: list[Form], *, per_form: int, seed: int) -> Iterator[Row]:
    """Yield texts of each form, each with another value."""
    for form in forms:
        random = Random(f"{seed} {form.template}")
        for number in range(per_form):
            template = form.template.replace("\\n", "\n")
            if form.kind == "APIKey" and "«" not in template:
                template = _KEY_FRAMES[number % len(_KEY_FRAMES)].replace("{v}", f"«{template}»")
            elif form.kind != CLEAN and "«" not in template:
                template = f"«{template}»"
            parts = _TOKEN.split(template)  # every other one is a token
            parts[1::2] = [draw_token(random, token) for token in parts[1::2]]
            text = "".join(parts).replace("≈", "~")
            text = text.replace("«tel:", "tel:«")  # the scheme is no part of the number
            before, _, rest = text.partition("«")
            value, _, after = rest.partition("»")
            end = len(before) + len(value) if rest else 0
            start = len(before) if rest else 0
            yield Row(form=form, text=before + value + after, start=start, end=end)


def draw_token(random: Random, token: str) -> str:
    """Return what stands in place of a token such as ``a36`` or ``iban:DE89...: ``."""
    name, *rest = token.split(":")
    if not rest and re.fullmatch(r"n\d+-\d+", name):
        low, high = map(int, name[1:].split("-"))
        return str(random.randint(low, high))
    if name == "ip4":
        first = random.choice((11, 23, 37, 51, 62, 80, 93, 104, 130, 151, 185, 201, 212))
        return (
            f"{first}.{random.randint(21, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
        )
    if name == "x":
        return f"{random.randint(1, 0xFFFF):x}"
    if name in ("card", "iban", "id", "phone", "not-card", "not-iban"):
        return _draw_checked(random, name, *rest)
    if name == "jwt":
        return values.jwt(random)
    if name == "pem":
        lines = "\n".join(values.draw(random, _ALPHABETS["b"], 64) for _ in range(4))
        return f"-----BEGIN {rest[0]}-----\n{lines}\n-----END {rest[0]}-----"
    return _draw_text(random, name[0], int(name[1:]))


def _draw_text(random: Random, alphabet: str, length: int) -> str:
    while True:
        text = values.draw(random, _ALPHABETS[alphabet], length)
        kinds = [any(map(is_of, text)) for is_of in (str.isdigit, str.islower, str.isupper)]
        is_edge = text[0].isalnum() and text[-1].isalnum()
        if alphabet not in "pwa" or length < 10 or (all(kinds) and is_edge):
            return text


def _draw_checked(random: Random, name: str, first: str, *rest: str) -> str:
    if name in ("card", "not-card"):
        length, sizes, separator = int(rest[0]), rest[1], rest[2]
        number = values.luhn(first + values.draw(random, values.DIGITS, length - len(first) - 1))
        if name == "not-card":
            number = number[:-1] + str((int(number[-1]) + 1) % 10)
        return _group(number, sizes, separator)
    if name in ("iban", "not-iban"):
        body = "".join(random.choice(values.DIGITS) if c.isdigit() else c for c in first[4:])
        value = int("".join(str(int(c, 36)) for c in f"{body}{first[:2]}00"))
        check = 98 - value % 97 if name == "iban" else (98 - value % 97) % 97 + 1
        return _group(f"{first[:2]}{check:02d}{body}", "4", rest[0])
    if name == "id":
        number = values.NATIONAL_IDS[first](random)
        digits = re.sub(r"\W", "", number)
        return _group(digits, rest[0], rest[1]) if rest else number
    style = getattr(phonenumbers.PhoneNumberFormat, rest[0])
    while True:
        example = phonenumbers.example_number_for_type(first, random.choice((0, 1)))
        assert example is not None
        body = str(example.national_number)
        drawn = int(body[:-5] + values.draw(random, values.DIGITS, 5))
        number_of = phonenumbers.PhoneNumber(
            example.country_code, drawn, italian_leading_zero=example.italian_leading_zero
        )
        if phonenumbers.is_valid_number_for_region(number_of, first):
            break
    written = str(phonenumbers.format_number(number_of, style))
    return written.replace(" ", rest[1]) if len(rest) > 1 else written


def _group(number: str, sizes: str, separator: str) -> str:
    lengths = [int(size) for size in sizes.split(",")]
    groups: list[str] = []
    place = 0
    while place < len(number):
        size = lengths[min(len(groups), len(lengths) - 1)]
        groups.append(number[place : place + size])
        place += size
    return separator.join(groups)
