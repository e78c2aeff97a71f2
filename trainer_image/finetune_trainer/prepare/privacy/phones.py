"""Phone numbers, judged by libphonenumber's tables. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import lru_cache

from finetune_trainer.prepare.privacy.matches import Match, Text, words

_CANDIDATE = re.compile(
    r"(?<![\w.+\-])(?<!\d[,:])(?:\(?\+|\()?\d(?:[ .\-/()]{0,2}\d){6,16}(?![\w@])"
)
_DATE = re.compile(r"(?:\d{4}([ ./\-])\d{1,2}\1\d{1,2}|\d{1,2}([ ./\-])\d{1,2}\2\d{4})(?!\d)")
_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
_LEADING_DATE = re.compile(
    rf"(?:{_YEAR}([./\-]){_MONTH}\1{_DAY}|{_DAY}([./\-]){_DAY}\2{_YEAR})(?!\d)[ ,/\-]*"
)
_NORTH_AMERICAN = re.compile(r"(?:1[ .\-])?(?:\(\d{3}\) ?|\d{3}[.\-])\d{3}[.\-]\d{4}")
_WORDS = words(
    "tel", "tele?phone", "phone", "phone ?(?:number|no)", "mobile?", "cell(?:phone)?", "fax",
    "call(?:ed|ing)? (?:me|us|him|her|them|back|on|at)", "please call", "a call",
    "ring (?:me|us)", "text me", "reach (?:me|us|him|her|them)", "(?:my|our|his|her|your) number",
    "whats ?app", "sms", "hotline", "telefon(?:nummer|isch)?", "telefax", "handy",
    "handynummer", "rufnummer", "mobil(?:nummer|e|telefon)?", "anruf(?:en)?", "r[üu]ckruf",
    "t[ée]l", "t[ée]l[ée]phone", "(?:mon|votre|le|au|son) portable",
    "appel(?:ez|er|le)?(?:[ -]moi)?",
    "joindre",
    "tel[ée]fono", "m[óo]vil", "ll[áa]m(?:ar|ame|eme|enos)", "celular", "cellulare",
    "chiam(?:are|ami|i)",
    "telefoon(?:nummer)?", "mobiel", "bel(?:len)?", "telefonu", "kom[óo]rk[ai]", "zadzwo[ńn]",
    "dzwoni[ćc]", "telem[óo]vel", "telefone", "ligu?e", "ligar", "telefonnummer", "ring mig",
    "puhelin", "puhelinnumero", "tlf", "電話", "电话", "手机", "携帯", "전화", "telefonum",
    "फ़ोन", "फोन", "मोबाइल", "नंबर",
)  # fmt: skip
_NUM_TRIMS = 3
_CODE = re.compile(r"\(?0[1-9]\d{0,4}(?!\d)")
"""A first group that some country writes. Asking libphonenumber of every country takes ten thousand
times as long: a million digits with blanks between them took minutes."""
_KEPT_ANSWERS = 4096


def find_phones(text: Text, countries: Collection[str]) -> Iterator[Match]:
    """Find phone numbers: international ones, and those of some countries in national form.

    A national number needs a word that says so, or the grouping of its country with a leading 0 or
    an area code in brackets (North America: 3-3-4). A number in one piece may be anything else.

    Args:
        text: The text.
        countries: Countries whose national numbers are known.
    """
    if not text.has_digits:
        return
    for found in _CANDIDATE.finditer(text.folded):
        date = _LEADING_DATE.match(found.group())
        # What follows a date is looked at by itself; the date may have used up the digits.
        rest = _CANDIDATE.match(text.folded, found.start() + date.end()) if date else found
        if rest is None:
            continue
        start = rest.start()
        for written in _trims(rest.group()):
            end = start + len(written)
            value = _read(text, written, start, end, countries)
            if value:
                yield Match("Phone", start, end, value)
                break


def _trims(written: str) -> Iterator[str]:
    """Give the candidate, then without its last groups, which may be another number's."""
    yield written
    for _ in range(_NUM_TRIMS):
        written, blank, _ = written.rpartition(" ")
        if not blank or sum(character.isdigit() for character in written) < 7:
            return
        yield written.rstrip(" (-./")


def _read(text: Text, written: str, start: int, end: int, countries: Collection[str]) -> str | None:
    digits = re.sub(r"\D", "", written)
    grouped = len(digits) < len(written.lstrip("(+"))
    if "+" in written:
        return _parse(written, None)
    if written.startswith("00") and grouped:
        value = _parse(f"+{written[2:]}", None)
        if value:
            return value
    named = text.is_near(_WORDS, start, end)
    if not named and (not grouped or _DATE.match(written)):
        return None
    american = _NORTH_AMERICAN.fullmatch(written) is not None
    if not named and not american:
        blanks = len(re.findall(r"[^\d]+", written))
        if not written.startswith(("0", "(0")) or (blanks < 2 and "-" in written):
            return None
        if not _CODE.match(written):
            return None
    if named and _DATE.fullmatch(written):
        return None
    for country in countries:
        if named or (country in ("US", "CA")) == american:
            value = _parse(written, country, as_grouped=not named and not american)
            if value:
                return value
    return None


@lru_cache(maxsize=_KEPT_ANSWERS)
def _parse(written: str, country: str | None, *, as_grouped: bool = False) -> str | None:
    """Return the number in E.164 form if it is one.

    Args:
        written: The number.
        country: Whose national form it may have; None for international form.
        as_grouped: Its first group must be the one that the country writes.
    """
    # Its tables are read when the first number is met: most rows have none.
    import phonenumbers

    try:
        number = phonenumbers.parse(written, country)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    if as_grouped:
        usual = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
        if re.findall(r"\d+", usual)[:1] != re.findall(r"\d+", written)[:1]:
            return None
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
