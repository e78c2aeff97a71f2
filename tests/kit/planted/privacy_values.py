"""Values that look like personal data and secrets of nobody, made by seed.

Check digits are computed here anew, from the rules that countries publish, and not by what is
tested.
"""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Callable
from itertools import pairwise
from random import Random

import phonenumbers

DIGITS = string.digits
ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
BASE64URL = ALNUM + "-_"

LOCALES = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "BR", "IN", "SE")


def draw(random: Random, alphabet: str, length: int) -> str:
    return "".join(random.choice(alphabet) for _ in range(length))


def luhn(body: str) -> str:
    """Append the check digit."""
    for check in DIGITS:
        number = body + check
        doubled = [int(c) * (2 if place % 2 else 1) for place, c in enumerate(reversed(number))]
        if sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0:
            return number
    raise AssertionError(body)


def born(random: Random) -> tuple[int, int, int]:
    return random.randint(40, 99), random.randint(1, 12), random.randint(1, 28)


def email(random: Random, names: tuple[str, ...]) -> str:
    first, last = random.choice(names), random.choice(names)
    local = random.choice(
        [f"{first}.{last}", f"{first}{random.randint(1, 99)}", f"{first[0]}-{last}+news", last]
    )
    host = random.choice(["mail.example", "kunden.example.de", "corp.example.co.uk", "x1.example"])
    return f"{local.lower()}@{host}"


CARDS = (
    ("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("2345", 16), ("2720", 16), ("34", 15),
    ("37", 15), ("6011", 16), ("65", 16), ("36", 14), ("3530", 16), ("62", 16), ("2202", 16),
)  # fmt: skip


def card(random: Random) -> str:
    prefix, length = random.choice(CARDS)
    number = luhn(prefix + draw(random, DIGITS, length - len(prefix) - 1))
    sizes = {16: (4, 4, 4, 4), 15: (4, 6, 5), 14: (4, 6, 4)}[length]
    style = random.choice(["", " ", "-"]) if length != 14 else random.choice([" ", "-"])
    groups, place = [], 0
    for size in sizes:
        groups.append(number[place : place + size])
        place += size
    return style.join(groups)


IBANS = {
    "DE": 18, "FR": 23, "NL": 14, "GB": 18, "ES": 20, "IT": 23, "PL": 24, "SE": 20, "BR": 25,
    "CH": 17, "AT": 16, "BE": 12, "NO": 11, "DK": 14, "PT": 21, "MT": 27,
}  # fmt: skip
_LETTERS_FIRST = {"NL": 4, "GB": 4, "IT": 1, "MT": 4}


def iban(random: Random) -> str:
    country, length = random.choice(list(IBANS.items()))
    letters = _LETTERS_FIRST.get(country, 0)
    body = draw(random, string.ascii_uppercase, letters) + draw(random, DIGITS, length - letters)
    value = "".join(str(int(c, 36)) for c in body + country + "00")
    number = f"{country}{98 - int(value) % 97:02d}{body}"
    if random.random() < 0.5:
        return number
    return " ".join(number[place : place + 4] for place in range(0, len(number), 4))


def phone(random: Random, country: str, *, international: bool) -> str:
    example = phonenumbers.example_number_for_type(country, random.choice([0, 1]))
    assert example is not None
    while True:
        national = str(example.national_number)
        keep = len(national) - 5
        changed = int(national[:keep] + draw(random, DIGITS, 5))
        number = phonenumbers.PhoneNumber(
            example.country_code, changed, italian_leading_zero=example.italian_leading_zero
        )
        if phonenumbers.is_valid_number_for_region(number, country):
            break
    style = (
        phonenumbers.PhoneNumberFormat.INTERNATIONAL
        if international
        else phonenumbers.PhoneNumberFormat.NATIONAL
    )
    written = phonenumbers.format_number(number, style)
    change = random.choice([" ", "-", ".", ""] if international else [" ", "-", "", " "])
    return str(written.replace(" ", change) if "(" not in written else written)


def ip_address(random: Random) -> str:
    if random.random() < 0.5:
        first = random.choice([23, 46, 51, 77, 81, 91, 109, 146, 178, 185, 194, 203, 217])
        return (
            f"{first}.{random.randint(20, 250)}.{random.randint(20, 250)}.{random.randint(2, 250)}"
        )
    groups = [
        random.choice(["2a02", "2a01", "2001", "2600"]),
        f"{random.randint(0x1200, 0xFFFF):x}",
    ]
    tail = [f"{random.randint(1, 0xFFFF):x}" for _ in range(6)]
    return ":".join([*groups, *tail]) if random.random() < 0.5 else f"{':'.join(groups)}::{tail[0]}"


def _us(random: Random) -> str:
    area = random.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03d}-{random.randint(1, 99):02d}-{random.randint(1, 9999):04d}"


def _gb(random: Random) -> str:
    prefix = random.choice(["AB", "CE", "JK", "LM", "PR", "SX", "TW", "YZ"])
    digits = [draw(random, DIGITS, 2) for _ in range(3)]
    return f"{prefix} {' '.join(digits)} {random.choice('ABCD')}"


def _de(random: Random) -> str:
    body = random.sample(DIGITS, 9)
    body.insert(random.randint(1, 9), body[0])
    if body[0] == "0":
        return _de(random)
    product = 10
    for digit in body:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    number = "".join(body) + str((11 - product) % 10)
    return random.choice([number, f"{number[:2]} {number[2:5]} {number[5:8]} {number[8:]}"])


def _fr(random: Random) -> str:
    year, month, _ = born(random)
    body = f"{random.choice('12')}{year:02d}{month:02d}{random.randint(1, 95):02d}"
    body += f"{random.randint(1, 990):03d}{random.randint(1, 999):03d}"
    number = f"{body}{97 - int(body) % 97:02d}"
    cuts = (0, 1, 3, 5, 7, 10, 13, 15)
    spaced = " ".join(number[start:end] for start, end in pairwise(cuts))
    return random.choice([number, spaced])


def _es(random: Random) -> str:
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    number = random.randint(10_000_000, 99_999_999)
    if random.random() < 0.3:
        number %= 10_000_000
        return f"X{number:07d}{letters[number % 23]}"
    return f"{number}{letters[number % 23]}"


_CF_ODD = [
    1,
    0,
    5,
    7,
    9,
    13,
    15,
    17,
    19,
    21,
    2,
    4,
    18,
    20,
    11,
    3,
    6,
    8,
    12,
    14,
    16,
    10,
    22,
    25,
    24,
    23,
]


def _it(random: Random) -> str:
    year, _, day = born(random)
    body = draw(random, "BCDFGLMNPRST", 6) + f"{year:02d}{random.choice('ABCDEHLMPRST')}{day:02d}"
    body += random.choice(string.ascii_uppercase) + draw(random, DIGITS, 3)
    total = 0
    for place, character in enumerate(body, 1):
        value = int(character) if character.isdigit() else ord(character) - 65
        total += _CF_ODD[value] if place % 2 else value
    return body + chr(65 + total % 26)


def _nl(random: Random) -> str:
    while True:
        body = str(random.randint(10_000_000, 99_999_999))
        check = sum(int(c) * w for c, w in zip(body, range(9, 1, -1), strict=True)) % 11
        if check < 10:
            return f"{body}{check}"


def _pl(random: Random) -> str:
    year, month, day = born(random)
    body = f"{year:02d}{month:02d}{day:02d}{draw(random, DIGITS, 4)}"
    weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)
    return body + str(-sum(int(c) * w for c, w in zip(body, weights, strict=True)) % 10)


def _br(random: Random) -> str:
    digits = [random.randint(0, 9) for _ in range(9)]
    for start in (10, 11):
        rest = sum(d * w for d, w in zip(digits, range(start, 1, -1), strict=True)) % 11
        digits.append(0 if rest < 2 else 11 - rest)
    number = "".join(map(str, digits))
    dotted = f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"
    return random.choice([number, dotted, dotted])


_VERHOEFF_INVERSE = (0, 4, 3, 2, 1, 5, 6, 7, 8, 9)


def _in(random: Random) -> str:
    def multiply(a: int, b: int) -> int:
        table = (
            "0123456789", "1234067895", "2340178956", "3401289567", "4012395678", "5987604321",
            "6598710432", "7659821043", "8765932104", "9876543210",
        )  # fmt: skip
        return int(table[a][b])

    steps = ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901",
             "2793806415", "7046913258")  # fmt: skip
    body = random.choice("23456789") + draw(random, DIGITS, 10)
    check = 0
    for place, digit in enumerate(reversed(body), 1):
        check = multiply(check, int(steps[place % 8][int(digit)]))
    number = body + str(_VERHOEFF_INVERSE[check])
    return random.choice([number, f"{number[:4]} {number[4:8]} {number[8:]}"])


def _se(random: Random) -> str:
    year, month, day = born(random)
    number = luhn(f"{year:02d}{month:02d}{day:02d}{draw(random, DIGITS, 3)}")
    return f"{random.choice(['', '19'])}{number[:6]}-{number[6:]}"


NATIONAL_IDS: dict[str, Callable[[Random], str]] = {
    "US": _us, "GB": _gb, "DE": _de, "FR": _fr, "ES": _es, "IT": _it, "NL": _nl, "PL": _pl,
    "BR": _br, "IN": _in, "SE": _se,
}  # fmt: skip


API_KEYS: dict[str, Callable[[Random], str]] = {
    "AWS": lambda r: "AKIA" + draw(r, string.ascii_uppercase + "234567", 16),
    "AWS secret": lambda r: "aws_secret_access_key = " + "aB3" + draw(r, ALNUM + "+/", 37),
    "GitHub classic": lambda r: r.choice(["ghp_", "gho_", "ghs_"]) + draw(r, ALNUM, 36),
    "GitHub fine-grained": lambda r: f"github_pat_{draw(r, ALNUM, 22)}_{draw(r, ALNUM, 59)}",
    "GitLab": lambda r: "glpat-" + draw(r, ALNUM, 20),
    "Slack": lambda r: f"xoxb-{draw(r, DIGITS, 12)}-{draw(r, DIGITS, 12)}-{draw(r, ALNUM, 24)}",
    "Stripe": lambda r: "sk_live_" + draw(r, ALNUM, 24),
    "Google": lambda r: "AIza" + draw(r, ALNUM, 35),
    "OpenAI": lambda r: f"sk-proj-{draw(r, ALNUM, 74)}T3BlbkFJ{draw(r, ALNUM, 74)}",
    "OpenAI legacy": lambda r: f"sk-{draw(r, ALNUM, 20)}T3BlbkFJ{draw(r, ALNUM, 20)}",
    "Anthropic": lambda r: f"sk-ant-api03-{draw(r, ALNUM, 93)}AA",
    "Hugging Face": lambda r: "hf_" + draw(r, string.ascii_letters, 34),
    "Azure storage": lambda r: f"AccountKey={draw(r, ALNUM + '+/', 86)}==",
    "npm": lambda r: "npm_" + draw(r, ALNUM, 36),
    "PyPI": lambda r: "pypi-AgEIcHlwaS5vcmc" + draw(r, ALNUM, 150),
    "SendGrid": lambda r: f"SG.{draw(r, ALNUM, 22)}.{draw(r, ALNUM, 43)}",
    "Twilio": lambda r: "SK" + draw(r, HEX, 32),
    "DigitalOcean": lambda r: "dop_v1_" + draw(r, HEX, 64),
    "Telegram": lambda r: f"{draw(r, '123456789', 10)}:AA{draw(r, ALNUM, 33)}",
}  # fmt: skip


def api_key(random: Random, provider: str) -> tuple[str, str]:
    """Return the key, and the key with the name it is assigned to where it needs one."""
    written = API_KEYS[provider](random)
    return written.split("= ")[-1].removeprefix("AccountKey="), written


def jwt(random: Random) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"sub": draw(random, DIGITS, 10), "iat": random.randint(10**9, 2 * 10**9)}
    return (
        f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.{draw(random, BASE64URL[:62], 43)}"
    )


def private_key(random: Random) -> str:
    kind = random.choice(["RSA ", "EC ", "", "OPENSSH ", "ENCRYPTED "])
    lines = [draw(random, ALNUM + "+/", 64) for _ in range(random.randint(3, 12))]
    end = random.choice(["\n", "\\n"])
    return end.join(
        [f"-----BEGIN {kind}PRIVATE KEY-----", *lines, f"-----END {kind}PRIVATE KEY-----"]
    )


def password(random: Random) -> str:
    while True:
        drawn = draw(random, ALNUM + "!%*-_", random.randint(12, 20))
        if any(c in DIGITS for c in drawn) and drawn[-1] in ALNUM and drawn[0] in ALNUM:
            return drawn
