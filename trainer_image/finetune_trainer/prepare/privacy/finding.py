"""Find personal data and secrets in a text. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from finetune_api.v1alpha1.spec.privacy import COUNTRIES, ENTITIES, Privacy
from finetune_trainer.prepare.privacy.contacts import find_emails, find_ip_addresses
from finetune_trainer.prepare.privacy.matches import Match, Text, compact, resolve_overlaps
from finetune_trainer.prepare.privacy.national_ids import find_national_ids
from finetune_trainer.prepare.privacy.passwords import find_passwords
from finetune_trainer.prepare.privacy.payments import find_cards, find_ibans
from finetune_trainer.prepare.privacy.phones import find_phones
from finetune_trainer.prepare.privacy.secrets import (
    find_api_keys,
    find_private_keys,
    find_tokens,
)

_EXACT = frozenset({"APIKey", "JWT", "PrivateKey", "Password"})
"""Kinds whose values differ by case and signs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is looked for.

    Attributes:
        entities: Kinds, as in the API.
        countries: Countries of the national numbers, in the order they are tried.
        allow: Values that are kept; ``*`` stands for any characters.
    """

    entities: frozenset[str] = frozenset(ENTITIES)
    countries: tuple[str, ...] = COUNTRIES
    allow: tuple[str, ...] = ()


def read_settings(privacy: Privacy) -> Settings:
    """Return the job's settings."""
    return Settings(
        entities=frozenset(privacy.entities or ENTITIES),
        countries=tuple(privacy.locales or COUNTRIES),
        allow=tuple(privacy.allow),
    )


def find_personal_data(text: str, settings: Settings, *, before: str = "") -> list[Match]:
    """Find personal data and secrets in a text, in time linear in its length.

    ``before`` is the text before it: a word there may name a number in the text.

    Returns:
        Matches that do not overlap, in the order of the text. A match that touches a placeholder
            such as ``<EMAIL_1>`` is dropped.
    """
    looked_at = Text(text, before)
    found = list(_run(looked_at, settings))
    if not found:
        return found
    if settings.allow:
        found = [match for match in found if not _is_allowed(match, looked_at, settings.allow)]
    return resolve_overlaps(found, looked_at.placeholders)


def _run(text: Text, settings: Settings) -> Iterator[Match]:
    wanted = settings.entities
    if "Email" in wanted:
        yield from find_emails(text)
    if "Phone" in wanted:
        yield from find_phones(text, settings.countries)
    if "Card" in wanted:
        yield from find_cards(text)
    if "IBAN" in wanted:
        yield from find_ibans(text)
    if "IPAddress" in wanted:
        yield from find_ip_addresses(text)
    if "NationalID" in wanted:
        yield from find_national_ids(text, settings.countries)
    if "APIKey" in wanted:
        yield from find_api_keys(text)
    if "JWT" in wanted:
        yield from find_tokens(text)
    if "PrivateKey" in wanted:
        yield from find_private_keys(text)
    if "Password" in wanted:
        yield from find_passwords(text)


def _is_allowed(match: Match, text: Text, allow: tuple[str, ...]) -> bool:
    written = text.folded[match.start : match.end]
    exact = match.entity in _EXACT
    whole, digits = _patterns(allow, exact)
    return bool(whole.fullmatch(written) or (not exact and digits.fullmatch(compact(written))))


@cache
def _patterns(allow: tuple[str, ...], exact: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Compile allowed values as they are written, and without blanks and dashes."""
    flags = re.DOTALL if exact else re.DOTALL | re.IGNORECASE

    def compile_all(values: list[str]) -> re.Pattern[str]:
        globs = (".*?".join(map(re.escape, re.split(r"\*+", value))) for value in values)
        return re.compile("|".join(globs), flags)

    return compile_all(list(allow)), compile_all([compact(value) for value in allow])
