"""Payment cards (Luhn) and bank accounts (IBAN, ISO 13616). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_trainer.prepare.privacy.checksums import has_luhn_digit, has_mod97
from finetune_trainer.prepare.privacy.matches import Match, Text, compact, words

_CARD = re.compile(
    r"(?:(?<![A-Za-z\d_.])|(?<=%B))(?<!\w-)\d(?:(?:  |[ .\-/_])?\d){11,18}(?![A-Za-z\d_]|[.\-]\d)"
)
_CARD_WORDS = words(
    r"(?:credit|debit|bank)?[ -]?cards?(?: number| no)?", "visa", "master ?card", "maestro", "amex",
    "american express", "karten?(?:nummer)?", "kreditkarte(?:nnummer)?", "carte", "tarjeta",
    "carta", "kaart(?:nummer)?", "kart[ay]", "cart[ãa]o", "kort(?:nummer)?", "कार्ड", "pan",
    "union ?pay",
)  # fmt: skip
_CHINESE_WORDS = re.compile("银联|银行卡|卡号")  # between other words without a blank
_PARCEL = re.compile(
    r"\b(?:track\w*|parcel|shipment|waybill|colis|paket|sendung\w*|fedex|ups|usps|dhl|package)\b"
    r"\W{0,3}(?:(?:it|id|is|ist|no|nr|number|nummer)\b\W{0,3}){0,2}$", re.IGNORECASE
)  # fmt: skip
_GROUPS = frozenset({(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (6, 13), (4, 4, 5)})

# Networks by the first digits (ISO/IEC 7812): lowest and highest prefix, lengths.
_NETWORKS: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (4, 4, (13, 16, 19)),  # Visa
    (51, 55, (16,)),  # Mastercard
    (2221, 2720, (16,)),  # Mastercard, 2-series
    (34, 34, (15,)),  # American Express
    (37, 37, (15,)),
    (36, 36, (14, 16, 19)),  # Diners Club
    (300, 305, (14, 16, 19)),
    (3095, 3095, (14, 16, 19)),
    (38, 39, (14, 16, 19)),
    (3528, 3589, (16, 19)),  # JCB
    (6011, 6011, (16, 19)),  # Discover
    (644, 649, (16, 19)),
    (65, 65, (16, 19)),
    (62, 62, (16, 17, 18, 19)),  # UnionPay
    (81, 81, (16, 17, 18, 19)),
    (82, 82, (16,)),  # RuPay
    (60, 60, (16,)),  # RuPay, Hipercard
    (508, 508, (16,)),
    (2200, 2204, (16,)),  # Mir
    (9792, 9792, (16,)),  # Troy
    (506699, 506778, (16,)),  # Elo
    (509000, 509999, (16,)),
    (504175, 504175, (16,)),
    (5018, 5018, (12, 13, 14, 15, 16, 18, 19)),  # Maestro
    (5020, 5020, (12, 13, 14, 15, 16, 18, 19)),
    (5038, 5038, (12, 13, 14, 15, 16, 18, 19)),
    (56, 58, (12, 13, 14, 15, 16, 18, 19)),
    (63, 63, (12, 13, 14, 15, 16, 18, 19)),
    (67, 68, (12, 13, 14, 15, 16, 18, 19)),
)
_USUAL = re.compile(r"\d{15,16}|62\d{17}")

# Length of an account number in the SWIFT registry, by its country.
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22,
    "BI": 27, "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27,
    "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27,
    "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28,
    "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22,
    "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23,
    "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24,
    "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28,
    "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
_GAP = r"(?:  |[ .\-])?"
_IBAN = re.compile(
    rf"(?<![^\W_])(?:{'|'.join(_IBAN_LENGTHS)}){_GAP}\d\d(?:{_GAP}[A-Z0-9]){{11,30}}", re.IGNORECASE
)


def find_cards(text: Text) -> Iterator[Match]:
    """Find numbers of payment cards, in one piece or in groups.

    Common lengths of other numbers count only beside a word for a card.
    """
    if not text.has_digits:
        return
    for found in _CARD.finditer(text.folded):
        digits = compact(found.group())
        if not _is_of_network(digits) or not has_luhn_digit(digits):
            continue
        groups = tuple(map(len, re.findall(r"\d+", found.group())))
        is_grouped = groups in _GROUPS or (len(groups) == 5 and set(groups[:4]) == {4})
        printed = is_grouped and len(set(re.sub(r"\d", "", found.group()))) == 1
        named = any(text.is_near(w, *found.span()) for w in (_CARD_WORDS, _CHINESE_WORDS))
        of_parcel = _PARCEL.search(text.folded[max(0, found.start() - 40) : found.start()])
        if named or ((printed or _USUAL.fullmatch(found.group())) and not of_parcel):
            yield Match("Card", *found.span(), digits)


def _is_of_network(digits: str) -> bool:
    return len(set(digits)) > 1 and any(
        lowest <= int(digits[: len(str(lowest))]) <= highest and len(digits) in lengths
        for lowest, highest, lengths in _NETWORKS
    )


def find_ibans(text: Text) -> Iterator[Match]:
    """Find bank accounts by country, its length and the check digits."""
    if not text.has_digits:
        return
    place = 0
    while found := _IBAN.search(text.folded, place):
        place = found.start() + 2
        end = _end_of_iban(found.group())
        if end:
            value = compact(found.group()[:end])
            if has_mod97(value) and not text.folded[found.start() + end :][:1].isalnum():
                yield Match("IBAN", found.start(), found.start() + end, value)
                place = found.start() + end


def _end_of_iban(written: str) -> int | None:
    missing = _IBAN_LENGTHS[written[:2].upper()]
    for place, character in enumerate(written):
        missing -= character.isalnum()
        if not missing:
            return place + 1
    return None
