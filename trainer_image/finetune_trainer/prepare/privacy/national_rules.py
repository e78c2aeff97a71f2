"""Validity rules of identity numbers by country, on the compact number. Pure."""

from __future__ import annotations

import re
from collections import Counter
from datetime import date

from finetune_trainer.prepare.privacy.checksums import has_luhn_digit, weigh

NINO_PREFIX = "(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"

_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_HETU_LETTERS = "0123456789ABCDEFHJKLMNPRSTUVWXY"
_PPS_LETTERS = "WABCDEFGHIJKLMNOPQRSTUV"
_CURP_LETTERS = "0123456789ABCDEFGHIJKLMNÑOPQRSTUVWXYZ"
_CF_DIGITS = str.maketrans("LMNPQRSTUV", "0123456789")
_CF_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3,
         6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)  # fmt: skip


def is_date(text: str) -> bool:
    """YYMMDD or YYYYMMDD."""
    day, month = int(text[-2:]), int(text[-4:-2])
    year = int(text[:-4])
    return _is_day(year + 2000 if len(text) == 6 else year, month, day)


def is_day_first(text: str) -> bool:
    """DDMMYY."""
    return _is_day(2000 + int(text[4:6]), int(text[2:4]), int(text[:2]))


def _is_day(year: int, month: int, day: int) -> bool:
    if not (1 <= month <= 12 and 1 <= day <= 31 and year >= 1):
        return False
    if (month, day) == (2, 29):  # the century may be unknown
        return year % 4 == 0
    try:
        date(2000, month, day)
    except ValueError:
        return False
    return True


def is_austrian(number: str) -> bool:
    """Check digit in the fourth place, then the date of birth."""
    rest = weigh(number[:3] + "0" + number[4:], (3, 7, 9, 0, 5, 8, 4, 2, 1, 6)) % 11
    return rest == int(number[3]) and number[0] != "0" and 1 <= int(number[4:6]) <= 31


def is_australian(number: str) -> bool:
    """Tax file number, eight or nine digits."""
    weights = (1, 4, 3, 7, 5, 8, 6, 9, 10) if len(number) == 9 else (10, 7, 8, 4, 6, 3, 5, 1)
    return weigh(number, weights) % 11 == 0


def is_belgian(number: str) -> bool:
    """97 less the rest of the number; of those born since 2000 a 2 stands before it."""
    check = int(number[9:])
    month = int(number[2:4]) % 20
    rests = (97 - int(century + number[:9]) % 97 for century in ("", "2"))
    return month <= 12 and int(number[4:6]) <= 31 and check in rests


def is_brazilian(number: str) -> bool:
    """CPF: two check digits."""
    first = weigh(number, range(10, 1, -1)) * 10 % 11 % 10
    second = weigh(number, range(11, 1, -1)) * 10 % 11 % 10
    return number[9:] == f"{first}{second}"


def is_german(number: str) -> bool:
    """Of the first ten digits one stands there twice or three times, all others once."""
    counts = sorted(Counter(number[:10]).values())
    return counts[-1] in (2, 3) and counts[-2] == 1


def is_spanish(number: str) -> bool:
    """DNI and NIE: a letter by the rest of 23."""
    number = number.upper()
    digits = number[:-1].translate(str.maketrans("XYZ", "012"))
    return _DNI_LETTERS[int(digits) % 23] == number[-1]


def is_finnish(number: str) -> bool:
    """Date of birth and a check character by the rest of 31; compact, its hyphen may be gone."""
    digits = number[:6] + number[-4:-1]
    return is_day_first(digits) and _HETU_LETTERS[int(digits) % 31] == number[-1]


def is_french(number: str) -> bool:
    """NIR: 97 less the rest; Corsica's departments count as 19 and 18."""
    body = number[:13].replace("2A", "19").replace("2B", "18")
    month = int(number[3:5])
    known = 1 <= month <= 12 or 20 <= month <= 42 or month >= 50
    return body.isdigit() and known and 97 - int(body) % 97 == int(number[13:])


def is_nhs(number: str) -> bool:
    """NHS number: weights 10 to 2, modulo 11."""
    return (11 - weigh(number, range(10, 1, -1)) % 11) % 11 == int(number[9])


def is_irish(number: str) -> bool:
    """PPS number: a letter by the rest of 23, a second letter counts nine times."""
    number = number.upper()
    second = "WABCDEFGHI".index(number[8]) if len(number) == 9 else 0
    return _PPS_LETTERS[(weigh(number, range(8, 1, -1)) + second * 9) % 23] == number[7]


def is_italian(number: str) -> bool:
    """Codice fiscale: characters in odd places count by a table, in even places by themselves."""
    number = number.upper()
    total = sum(_CF_ODD[character] for character in number[0:15:2])
    total += sum(int(c) if c.isdigit() else ord(c) - 65 for c in number[1:15:2])
    day = int(number[9:11].translate(_CF_DIGITS))
    return chr(65 + total % 26) == number[15] and (1 <= day <= 31 or 41 <= day <= 71)


def is_japanese(number: str) -> bool:
    """My Number: twelve digits, modulo 11."""
    rest = weigh(number, (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return (0 if rest <= 1 else 11 - rest) == int(number[11])


def is_korean(number: str) -> bool:
    """RRN: date of birth and a check digit; numbers given out since October 2020 have none."""
    check = (11 - weigh(number, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10
    return is_date(number[:6]) and check == int(number[12])


def is_mexican(number: str) -> bool:
    """CURP: weights 18 to 2 of letters and digits."""
    number = number.upper()
    total = sum(_CURP_LETTERS.index(c) * (18 - place) for place, c in enumerate(number[:17]))
    return (10 - total % 10) % 10 == int(number[17]) and is_date(number[4:10])


def is_dutch(number: str) -> bool:
    """BSN: the eleven test."""
    return weigh(number, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def is_norwegian(number: str) -> bool:
    """Date of birth and two check digits; a D number adds 4 to the first digit."""
    day = str(int(number[0]) % 4) + number[1:]
    first = weigh(number, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11
    second = weigh(number, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11
    return first == 0 and second == 0 and is_day_first(day)


def is_polish(number: str) -> bool:
    """PESEL: the month carries the century."""
    month = int(number[2:4]) % 20
    known = is_date(f"{number[:2]}{month:02d}{number[4:6]}")
    return known and weigh(number, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def is_portuguese(number: str) -> bool:
    """NIF: weights 9 to 2, modulo 11."""
    rest = weigh(number, range(9, 1, -1)) % 11
    return (0 if rest < 2 else 11 - rest) == int(number[8])


def is_swedish(number: str) -> bool:
    """Date of birth and Luhn; a coordination number adds 60 to the day."""
    digits = re.sub(r"\D", "", number)[-10:]
    day = int(digits[4:6]) % 60
    return is_date(f"{digits[:4]}{day:02d}") and has_luhn_digit(digits)


def is_turkish(number: str) -> bool:
    """T.C. kimlik: two check digits."""
    digits = [int(digit) for digit in number]
    tenth = (sum(digits[0:9:2]) * 7 - sum(digits[1:8:2])) % 10
    return tenth == digits[9] and sum(digits[:10]) % 10 == digits[10]


def is_american(number: str) -> bool:
    """SSN and ITIN: no check digit; area, group and serial that were ever given out."""
    area, group, serial = number[:3], number[3:5], number[5:]
    return area not in ("000", "666") and group != "00" and serial != "0000"
