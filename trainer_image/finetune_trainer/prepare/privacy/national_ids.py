"""National identity, tax and social security numbers, by country.

Pure. A form that other numbers share counts only beside a word that names the number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache

from finetune_trainer.prepare.privacy import national_rules as rules
from finetune_trainer.prepare.privacy.checksums import (
    has_ean_digit,
    has_luhn_digit,
    has_mod11_2,
    has_mod11_10,
    has_verhoeff_digit,
)
from finetune_trainer.prepare.privacy.matches import Match, Text, compact, words

_ANY_COUNTRY = (
    r"national (?:id|identity|insurance)(?: (?:number|no))?", r"id(?:entity)? (?:number|no|card)",
    r"personal (?:id|identity|identification)?(?: number| code)?", "tax (?:id|number|file number)",
    "tax identification number", "social (?:security|insurance)(?: (?:number|no))?",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """One way to write one number.

    Attributes:
        country: Country of the number.
        pattern: Its form, without its surroundings.
        is_valid: Whether the compact number is valid.
        words: Words for it; None where the form is unmistakable.
    """

    country: str
    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool]
    words: re.Pattern[str] | None


_ANY_GAP = r"[ ._/\-]?"
_GAPS = re.compile(r"\[ \\-\]\?|\[[ .]\]\?| \?")
_DIGITS = re.compile(r"\\d\{(\d+)\}")
_SUFFIX = "(?: ?(?:number|no|nr|num|nummer|code))?"


def _spread_digits(found: re.Match[str]) -> str:
    return rf"\d(?:{_ANY_GAP}\d){{{int(found.group(1)) - 1}}}"


def _form(
    country: str, pattern: str, is_valid: Callable[[str], bool], *names: str, plain: bool = True
) -> _Form:
    if names:  # a number that is named is written in groups of all kinds
        pattern = _GAPS.sub(lambda _: _ANY_GAP, pattern)
        pattern = _DIGITS.sub(_spread_digits, pattern)
        names = tuple(f"(?:{name}){_SUFFIX}" for name in names)
    # Part of a longer number, of a decimal or of a UUID is none.
    bounded = rf"(?<![A-Za-z0-9_.])(?<!\w-)(?:{pattern})(?![A-Za-z0-9_])(?![.\-]\w)"
    return _Form(
        country=country,
        pattern=re.compile(bounded, 0 if plain else re.IGNORECASE),
        is_valid=is_valid,
        words=words(*names, *_ANY_COUNTRY) if names else None,
    )


_FORMS: tuple[_Form, ...] = (
    _form("AT", r"\d{4}[ \-]?\d{6}", rules.is_austrian, "svnr", "sv-?nummer",
          "sozialversicherungsnummer", "versicherungsnummer"),
    _form("AU", r"\d{3}[ \-]?\d{3}[ \-]?\d{2,3}", rules.is_australian, "tfn"),
    _form("BE", r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d", rules.is_belgian),
    _form("BE", r"\d{6}[ \-]?\d{3}[ \-]?\d\d", rules.is_belgian, "rijksregisternummer", "niss",
          "insz", "num[ée]ro (?:national|de registre)"),
    _form("BR", r"\d{3}\.\d{3}\.\d{3}-\d\d", rules.is_brazilian),
    _form("BR", r"\d{11}", rules.is_brazilian, "cpf", "cadastro de pessoas? f[íi]sicas?"),
    _form("CA", r"\d{3}[ \-]?\d{3}[ \-]?\d{3}", has_luhn_digit, "sin", "social insurance", "nas"),
    _form("CH", r"756[ .]?\d{4}[ .]?\d{4}[ .]?\d\d", has_ean_digit),
    _form("CN", r"[1-9]\d{5}(?:19|20)\d{9}[\dXx]",
          lambda n: rules.is_date(n[6:14]) and has_mod11_2(n)),
    _form("DE", r"[1-9]\d[ ]?\d{3}[ ]?\d{3}[ ]?\d{3}",
          lambda n: rules.is_german(n) and has_mod11_10(n),
          r"steuer(?: |-)?(?:id|idnr|ident(?:ifikations)?-?nummer)(?:-?nr)?", r"id-?nr", "tin",
          "steuerliche identifikationsnummer", "identifikationsnummer", "steuernummer"),
    _form("DK", r"\d{6}-?\d{4}", lambda n: rules.is_day_first(n[:6]), r"cpr(?:-?(?:nr|nummer))?",
          "personnummer"),
    _form("ES", r"(?:\d{8}|\d\d\.\d{3}\.\d{3})-?[A-HJ-NP-TV-Z]", rules.is_spanish, plain=False),
    _form("ES", r"[XYZ]-?\d{7}-?[A-HJ-NP-TV-Z]", rules.is_spanish, plain=False),
    _form("ES", r"(?:[XYZ][ ]?\d{7}|\d\d[ ]?\d{3}[ ]?\d{3})[ ]?[A-HJ-NP-TV-Z]", rules.is_spanish,
          r"d\.?n\.?i\.?", r"n\.?i\.?[ef]\.?", plain=False),
    _form("FI", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]", rules.is_finnish),
    _form("FR", r"[12][ .]?\d\d[ .]?\d\d[ .]?(?:\d\d|2[AB])[ .]?\d{3}[ .]?\d{3}[ .]?\d\d",
          rules.is_french),
    _form("GB", rf"{rules.NINO_PREFIX} \d\d ?\d\d ?\d\d ?[A-D]", lambda _: True, plain=False),
    _form("GB", rf"(?:{rules.NINO_PREFIX}|QQ)[ ]?\d\d[ ]?\d\d[ ]?\d\d[ ]?[A-D]",
          lambda _: True, "nino?",
          r"ni (?:number|no)", "national insurance", plain=False),
    _form("GB", r"\d{3}[ \-]?\d{3}[ \-]?\d{4}", rules.is_nhs, r"nhs(?: (?:number|no))?"),
    _form("IE", r"\d{7}[ ]?[A-W][A-IW]?", rules.is_irish, "ppsn?", r"pps(?: (?:number|no))",
          plain=False),
    _form("IN", r"[2-9]\d{3}[ \-]?\d{4}[ \-]?\d{4}", has_verhoeff_digit, "aadh?aar", "uid(?:ai)?",
          "आधार"),
    _form("IN", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]", lambda _: True, "pan",
          r"pan (?:card|number|no)", "permanent account number"),
    _form("IT", r"[A-Z]{6}[0-9L-NP-V]{2}[ABCDEHLMPRST][0-9L-NP-V]{2}[A-Z][0-9L-NP-V]{3}[A-Z]",
          rules.is_italian, plain=False),
    _form("IT", r"[A-Z]{3}[ ]?[A-Z]{3}[ ]?[0-9L-NP-V]{2}[ABCDEHLMPRST][0-9L-NP-V]{2}[ ]?[A-Z]"
          r"[0-9L-NP-V]{3}[ ]?[A-Z]", rules.is_italian, "codice fiscale", r"c\.?f\.?", plain=False),
    _form("JP", r"\d{4}[ \-]?\d{4}[ \-]?\d{4}", rules.is_japanese, "my ?number", "マイナンバー",
          "個人番号"),
    _form("KR", r"\d{6}-\d{7}", rules.is_korean),
    _form("KR", r"\d{6}-?\d{7}", lambda n: rules.is_date(n[:6]), "rrn", "주민등록번호",
          "resident registration(?: number)?"),
    _form("MX", r"[A-Z][AEIOUX][A-Z]{2}\d{6}[HMX][A-Z]{2}[B-DF-HJ-NP-TV-Z]{3}[0-9A-Z]\d",
          rules.is_mexican, plain=False),
    _form("NL", r"\d{4}[.]?\d\d[.]?\d{3}", rules.is_dutch, r"bsn(?:-?nummer)?",
          "burgerservicenummer", "sofi-?nummer"),
    _form("NO", r"\d{6} ?\d{5}", rules.is_norwegian),
    _form("PL", r"\d{11}", rules.is_polish, "pesel"),
    _form("PT", r"[1235689]\d{2} ?\d{3} ?\d{3}", rules.is_portuguese, "nif",
          "n[úu]mero de (?:identifica[çc][ãa]o fiscal|contribuinte)", "contribuinte"),
    _form("SE", r"(?:19|20)?\d{6}[-+]?\d{4}", rules.is_swedish, "personn(?:ummer|r)",
          "samordningsnummer", "pnr"),
    _form("TR", r"[1-9]\d{10}", rules.is_turkish, "tckn",
          r"(?:t\.?c\.? ?)?kimlik(?: ?(?:no|numaras\w))?"),
    _form("US", r"\d{3}-\d\d-\d{4}", rules.is_american),
    _form("US", r"\d{3} ?\d\d ?\d{4}", rules.is_american, "ssn", "itin",
          "social security(?: (?:number|no))?"),
    _form("ZA", r"\d{6}[ ]?\d{4}[ ]?\d{3}",
          lambda n: rules.is_date(n[:6]) and has_luhn_digit(n), "(?:sa )?id", "identity number"),
)  # fmt: skip


@cache
def _forms_of(countries: frozenset[str]) -> tuple[_Form, ...]:
    return tuple(form for form in _FORMS if form.country in countries)


def find_national_ids(text: Text, countries: Collection[str]) -> Iterator[Match]:
    """Find the identity numbers of some countries."""
    if not text.has_digits:
        return
    for form in _forms_of(frozenset(countries)):
        for found in form.pattern.finditer(text.folded):
            value = compact(found.group())
            if len(set(value)) < 3 or not form.is_valid(value):
                continue
            if form.words is None or text.is_near(form.words, *found.span()):
                yield Match("NationalID", *found.span(), value)
