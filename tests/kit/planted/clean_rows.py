"""Clean rows of three kinds, full of what only looks like personal data: made by seed."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from random import Random

from kit.planted.privacy_values import ALNUM, DIGITS, HEX, draw

PROSE = (
    "The meeting on {date} moved; see order {order} for what was agreed.",
    "ISBN {isbn} was printed {small},{digits3} times, and ISBN {isbn} only once.",
    "Upgrade to {version} before {date}, or the sensor reads {number}.",
    "In {year} the town had {number} people at {number}.",
    "Ticket {order} quotes section {small}.{small}.{small}.{small} of the norm.",
    "The model is a TX-{digits4}-{digits4}, serial {hex12}, made on {date}.",
    "Ratios of 1:{two}:{digits3} and scores of {two}-{two} were common @ {two} %.",
    "Password rules: at least {two} characters, no token older than {date}.",
)
CODE = (
    "sha = '{hex40}'  # {date}\nmd5 = '{hex32}'",
    "id = UUID('{uuid}')\nrequests=={small}.{two}.{small}",
    "git clone git@github.com:org/repo-{two}.git && cd repo",
    "@pytest.fixture\ndef icon(): return 'icon@{small}x.png'  # {version}",
    "password = os.environ['DB_PASSWORD_{small}']\ntoken = tokenizer.encode(text)[{two}]",
    "std::vector<int> v{{number}};  // fe::be{small} dead::beef",
    "data:image/png;base64,{base64}",
    "const API_KEY = process.env.API_KEY_{small}; // sk-your-key-here, ghp_{stand_in}",
    "url = 'https://user:${PASSWORD}@host.example/{uuid}'",
    "for i in range({number}): call({digits8}, phone_id=None)",
    "listen 127.0.0.1:{digits4}; mac 00:1B:44:11:3A:{two}",
    "secretName: db-credentials-v{small}\nimage: app@sha256:{hex64}",
)
TABLE = (
    "| {order} | {date} | {number} | {version} |",
    "| {order} | {date} | {number} | {isbn} |",
    "| {order} | {date} | {number} | {uuid} |",
)
HEAD = "| order | date | amount | reference |\n|---|---|---|---|\n"


def clean_rows(num_rows: int, *, seed: int) -> Iterator[tuple[str, str]]:
    """Yield (prose, code or table; text)."""
    random = Random(seed)
    for number in range(num_rows):
        kind = ("prose", "code", "table")[number % 3]
        if kind == "table":
            lines = [random.choice(TABLE) for _ in range(random.randint(2, 4))]
            yield kind, HEAD + "\n".join(_fill(random, line) for line in lines)
        else:
            yield kind, _fill(random, random.choice(PROSE if kind == "prose" else CODE))


def _fill(random: Random, template: str) -> str:
    return re.sub(r"\{([a-z_0-9]+)\}", lambda found: FIELDS[found.group(1)](random), template)


def _isbn(random: Random) -> str:
    body = "978" + draw(random, DIGITS, 9)
    check = -sum(int(c) * (1, 3)[place % 2] for place, c in enumerate(body)) % 10
    return f"{body[:3]}-{body[3]}-{body[4:6]}-{body[6:12]}-{check}"


def _uuid(random: Random) -> str:
    text = draw(random, HEX, 32)
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def _date(random: Random) -> str:
    year = random.randint(1990, 2026)
    month, day = f"{random.randint(1, 12):02d}", f"{random.randint(1, 28):02d}"
    return random.choice(
        [
            f"{year}-{month}-{day}",
            f"{day}.{month}.{year}",
            f"{day}/{month}/{year}",
            f"{year}{month}{day}T{random.randint(10, 23)}0000Z",
        ]
    )


def _version(random: Random) -> str:
    parts = [str(random.randint(0, 40)) for _ in range(random.choice([3, 4]))]
    return random.choice(["v", "version ", "=="]) + ".".join(parts)


def _order(random: Random) -> str:
    return random.choice(
        [
            f"ORD-{random.randint(2020, 2026)}-{draw(random, DIGITS, 6)}",
            f"#{draw(random, DIGITS, 10)}",
            f"AB{draw(random, DIGITS, 8)}",
            f"1Z{draw(random, string.ascii_uppercase + DIGITS, 16)}",
            f"{draw(random, DIGITS, 6)}-{draw(random, DIGITS, 3)}",
        ]
    )


def _number(random: Random) -> str:
    large = random.randint(10**6, 10**10)
    return random.choice(
        [
            f"{random.uniform(-90, 90):.6f}, {random.uniform(-180, 180):.6f}",
            f"{large:,}",
            f"{large:,}".replace(",", " "),
            f"{random.random():.12f}",
            str(random.randint(10**8, 10**9)),
            str(random.randint(10**12, 2 * 10**12)),
            f"{random.randint(100, 999)} 000 {random.randint(100, 999)}",
            f"10.0.{random.randint(0, 255)}.{random.randint(1, 254)}",
            f"{random.randint(10, 23)}:{random.randint(10, 59)}:{random.randint(10, 59)}",
        ]
    )


FIELDS: dict[str, Callable[[Random], str]] = {
    "isbn": _isbn,
    "uuid": _uuid,
    "date": _date,
    "version": _version,
    "order": _order,
    "number": _number,
    "small": lambda r: str(r.randint(1, 9)),
    "two": lambda r: str(r.randint(10, 99)),
    "year": lambda r: str(r.randint(1800, 2020)),
    "digits3": lambda r: draw(r, DIGITS, 3),
    "digits4": lambda r: draw(r, DIGITS, 4),
    "digits8": lambda r: str(r.randint(10**7, 10**8)),
    "hex12": lambda r: draw(r, HEX, 12),
    "hex32": lambda r: draw(r, HEX, 32),
    "hex40": lambda r: draw(r, HEX, 40),
    "hex64": lambda r: draw(r, HEX, 64),
    "base64": lambda r: draw(r, ALNUM + "+/", 60),
    "stand_in": lambda _: "x" * 36,
}
