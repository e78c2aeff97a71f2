"""Phone numbers, judged by libphonenumber's tables. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import lru_cache

from finetune_trainer.prepare.privacy.matches import CONTEXT_BEFORE, Match, Text, words

_CANDIDATE = re.compile(
    r"(?:(?<![\w.+\-])(?<!\d[,:])(?:\(?\+|\()?|(?<=[A-Za-z]\.)\+|(?<=\d,)\+)"
    r"\d(?:[ .\-/()]{0,2}\d){6,16}(?:(?![\w@])|(?=x\d))"
)
_DATE = re.compile(
    r"\d\d?/\d\d?/\d\d(?![\d/])"
    r"|(?:\d{4}([ ./\-])\d{1,2}\1\d{1,2}|\d{1,2}([ ./\-])\d{1,2}\2\d{4})(?!\d)"
)
_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
_LEADING_DATE = re.compile(
    rf"(?:{_YEAR}([./\-]){_MONTH}\1{_DAY}|{_DAY}([./\-]){_DAY}\2{_YEAR})(?!\d)[ ,/\-]*"
)
_DATE_BEFORE = re.compile(rf"(?:{_YEAR}[./\-]\d\d?[./\-]\d\d?|\d\d?[./\-]\d\d?[./\-]{_YEAR}) $")
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
    "फ़ोन", "फोन", "मोबाइल", "नंबर", "msisdn", r"wa\.me", "fone", "contato", "zap", "joignable",
    "(?:mon|son|votre|le) num(?:[ée]ro)?",
)  # fmt: skip
_OTHER_NUMBER = words(
    "orders?", "tickets?", "case", "claim", "policy", "file", "ref(?:erence)?", "invoices?",
    "receipt", "tracking", "parcel", "shipment", "waybill", "consignment", "container", "errors?",
    "version", "build", "model", "imei", "iccid", "serial", "s/n", "p/n", "sku", "ean", "gtin",
    "isbn", "ndc", "cas", "part", "item", "article", "product", "batch", "lot", "account", "acct",
    "customer", "member", "user", "id", "code", "pin", "otp", "range", "lines?", "pages?", "pp",
    "bins?", "rows?", "columns?", "years?", "population", "total", "count", "sum", "used", "size",
    "index", "section", "step", "seed", "timestamp", "ts", "port", "pid", "bestell(?:ung|nummer)",
    "auftrag(?:snummer)?", "vorgang(?:snummer)?", "rechnung(?:snummer)?", "kunden(?:nummer|-?nr)",
    "sendung(?:snummer)?", "paket(?:nummer)?", "artikel(?:nummer)?", "teilenummer", "seriennummer",
    "z[äa]hler(?:nummer|stand)?", "konto(?:nummer)?", "blz", "mitglied(?:snummer)?", "aktenzeichen",
    "fehler", "pedido", "factura", "commande", "facture", "colis", "client", "ordine", "fattura",
    "bestelling", "zam[óo]wienie", "faktura", "encomenda", "nota fiscal",
)  # fmt: skip
"""Words for other numbers, next to the number."""
_LINK = re.compile(
    r"(?:[\s:=#.\"'(\[]|\b(?:is|ist|no|nr|number|num|nummer|numbers?|of|from|the|de|von)\b)*",
    re.IGNORECASE,
)
_AFTER_NUMBER = re.compile(r"\w\d[ \-]$")
_SHORT_DIGITS = 9
"""So few digits in one piece are a count or a code more often than a telephone number."""
_DEVICE = re.compile(
    r"\b(?:on|in|with|from|of|to|for|by|via|per|auf|am|mit|sur|avec|en|con) "
    r"(?:(?:my|your|his|her|our|their|the|this|a|mein\w*|dein\w*|de[mnr]|mon|votre|son|le|mi|su|el)"
    r" )?"
    r"(?:mobile |cell |smart)?(?:phone|mobile?|cell(?:phone)?|handy|mobiltelefon|portable|m[óo]vil|"
    r"celular|telefon|telephone|sms|fax)\W*$",
    re.IGNORECASE,
)
"""A telephone as a device: "on my phone 4829131" is no number of it."""
_NAMING = re.compile(
    r"(?:[\s:=#.\"'(\[|>/,_]|\b(?:is|ist|lautet|est|es|[èeé]|are|was|to|jest|er|[äa]r|at|on|under|unter|"
    r"number|num|no|nr|nummer|n[úu]mero|me|us|him|her|them|back|today|now|please|p[åa]|al|au|le|op|pod|"
    r"do|til)\b)*",
    re.IGNORECASE,
)
_UNIT = re.compile(
    r"\s?(?:[%€$£]|(?:ohms?|[mck]?m|k?g|lbs?|eur|usd|bytes?|[kmg]i?b|units?|pcs|pieces|times|calls|"
    r"people|customers|phones|users|hz|volts?|watts?|kwh|mal|st[üu]ck)\b)",
    re.IGNORECASE,
)
_TRACKING = re.compile(r"\d{4}([ .\-])\d{4}\1\d{4}")
_RANGE = re.compile(r"(\d{3})-(\d{3})-(1\d{3})")
_COUNTED = re.compile(r"[1-9]\d*(?: ?- ?[1-9]\d*)+(?: [1-9]\d*-[1-9]\d*)*")
_BRAZILIAN = re.compile(r"\(\d\d\) ?9?\d{4}-\d{4}")
_COORDINATES = re.compile(r"\+\d{1,3}\.\d+[+\-]\d{1,3}\.\d")  # ISO 6709
_NUM_TRIMS = 3
_CODE = re.compile(r"\(?0[1-9]\d{0,4}(?!\d)")
"""A first group that some country writes. Asking libphonenumber of every country takes ten thousand
times as long: a million digits with blanks between them took minutes."""
_KEPT_ANSWERS = 4096


def find_phones(text: Text, countries: Collection[str]) -> Iterator[Match]:
    """Find phone numbers: international ones, and those of some countries in national form.

    A national number needs a word for it, or its country's grouping with a leading 0 or an area
    code in brackets (North America: 3-3-4).
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
        is_trimmed = False
        for written in _trims(rest.group()):
            end = start + len(written)
            value = _read(text, written, start, end, countries, is_trimmed=is_trimmed)
            if value:
                yield Match("Phone", start, end, value)
                break
            is_trimmed = True


def _trims(written: str) -> Iterator[str]:
    """Give the candidate, then without its last groups, which may be another number's."""
    yield written
    for _ in range(_NUM_TRIMS):
        written, blank, _ = written.rpartition(" ")
        if not blank or sum(character.isdigit() for character in written) < 7:
            return
        yield written.rstrip(" (-./")


def _read(
    text: Text,
    written: str,
    start: int,
    end: int,
    countries: Collection[str],
    *,
    is_trimmed: bool = False,
) -> str | None:
    digits = re.sub(r"\D", "", written)
    grouped = len(digits) < len(written.lstrip("(+"))
    if "+" in written:
        if _COORDINATES.match(written):
            return None
        return _parse(written, None)
    if written.startswith("00") and grouped and not _TRACKING.fullmatch(written):
        value = _parse(f"+{written[2:]}", None)
        if value:
            return value
    named = text.is_near(_WORDS, start, end)
    if not named and is_trimmed:  # a longer run of groups is a tracking or account number
        return None
    if not named and (not grouped or _DATE.match(written)):
        return None
    if not named and (_TRACKING.fullmatch(written) or _is_range(written)):
        return None
    american = _NORTH_AMERICAN.fullmatch(written) is not None
    if not named and not american and not _BRAZILIAN.fullmatch(written):
        blanks = len(re.findall(r"[^\d]+", written))
        if not written.startswith(("0", "(0")) or (blanks < 2 and "-" in written):
            return None
        if not _CODE.match(written):
            return None
    if named and _DATE.fullmatch(written):
        return None
    sure = grouped or len(digits) > _SHORT_DIGITS or text.folded[start] in "(0"
    sure = sure and (american or not _counts_up(written))  # 1990-2000 beside the word "phone"
    if _UNIT.match(text.folded, end) or _is_other_number(text, start, sure=sure):
        return None
    for country in countries:
        if named or (country in ("US", "CA")) == american:
            value = _parse(written, country, as_grouped=not named and not american)
            if value:
                return value
    return None


def _is_range(written: str) -> bool:
    """Whether it counts up to a thousand and something, as in 325-419-1126."""
    found = _RANGE.fullmatch(written)
    return found is not None and found.group(1) < found.group(2)


def _counts_up(written: str) -> bool:
    """Whether it is ascending numbers with dashes, such as 10-20 30-40."""
    numbers = list(map(int, re.findall(r"\d+", written)))
    return _COUNTED.fullmatch(written) is not None and numbers == sorted(set(numbers))


def _is_other_number(text: Text, start: int, *, sure: bool) -> bool:
    """Whether a nearer word than one for telephones names the number.

    A number that is not ``sure`` to be one for its form needs the word right before it.
    """
    before = text.folded[max(0, start - CONTEXT_BEFORE) : start]
    spoken = [found.end() for found in _WORDS.finditer(before)]
    place = spoken[-1] if spoken else 0
    if any(_LINK.fullmatch(before, found.end()) for found in _OTHER_NUMBER.finditer(before, place)):
        return True
    if _AFTER_NUMBER.search(before) and not _DATE_BEFORE.search(before):
        return True
    if sure:
        return False
    is_named = _NAMING.fullmatch(before, place) if spoken else text.was_said_before(_WORDS)
    is_thing = _DEVICE.search(before[:place]) and not re.search(r"[:=#]", before[place:])
    return not is_named or bool(is_thing)


@lru_cache(maxsize=_KEPT_ANSWERS)
def _parse(written: str, country: str | None, *, as_grouped: bool = False) -> str | None:
    """Return a valid number in E.164 form, else None.

    ``country`` is None for international form. ``as_grouped`` requires the country's first group.
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
