"""Check digits. Pure; each takes text of ASCII digits and says whether it holds."""

from __future__ import annotations

from collections.abc import Sequence

_D5 = tuple(
    tuple(
        (i + j) % 5
        if i < 5 and j < 5
        else 5 + (i + j) % 5
        if i < 5
        else 5 + (i - j) % 5
        if j < 5
        else (i - j) % 5
        for j in range(10)
    )
    for i in range(10)
)
"""Multiplication in the dihedral group of order 10, which Verhoeff's check digit counts in."""
_STEP = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def has_luhn_digit(digits: str) -> bool:
    """Luhn (ISO/IEC 7812-1): payment cards, many national numbers."""
    total = sum(map(int, digits[-1::-2]))
    total += sum((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)[int(digit)] for digit in digits[-2::-2])
    return total % 10 == 0


def has_verhoeff_digit(digits: str) -> bool:
    """Verhoeff's check digit: Aadhaar."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = _STEP[value]
        check = _D5[check][value]
    return check == 0


def has_mod97(iban: str) -> bool:
    """ISO 13616: the rearranged account number leaves 1 modulo 97."""
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def weigh(digits: str, weights: Sequence[int]) -> int:
    """Return the sum of digits times weights, from the left, as far as both go."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def has_mod11_10(digits: str) -> bool:
    """ISO 7064 MOD 11,10: the German tax number."""
    product = 10
    for digit in digits[:-1]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[-1])


def has_mod11_2(digits: str) -> bool:
    """ISO 7064 MOD 11-2, whose last place may be X: the Chinese identity number."""
    total = sum(
        (10 if digit == "X" else int(digit)) * 2**place
        for place, digit in enumerate(reversed(digits))
    )
    return bool(total % 11 == 1)


def has_ean_digit(digits: str) -> bool:
    """The check digit of EAN-13: the Swiss social security number."""
    return weigh(digits, (1, 3) * 7) % 10 == 0
