"""``spec.dataset.privacy``: what becomes of personal data and secrets in the examples."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from finetune_api.meta import SET_LIST, APIModel, Unique
from finetune_api.patterns import TextRule, Texts
from finetune_api.rule import Rule

Entity = Literal[
    "Email",
    "Phone",
    "Card",
    "IBAN",
    "IPAddress",
    "NationalID",
    "APIKey",
    "JWT",
    "PrivateKey",
    "Password",
]
ENTITIES: tuple[Entity, ...] = get_args(Entity)

Country = Literal[
    "AT", "AU", "BE", "BR", "CA", "CH", "CN", "DE", "DK", "ES", "FI", "FR", "GB", "IE", "IN", "IT",
    "JP", "KR", "MX", "NL", "NO", "PL", "PT", "SE", "TR", "US", "ZA",
]  # fmt: skip
COUNTRIES: tuple[Country, ...] = get_args(Country)

ALLOW_RULE = TextRule(
    patterns={"": ".*[^* ].*"},
    message="must be more than `*`; to leave all values as they are, set action: Off or Report",
)


class Privacy(APIModel):
    """What becomes of personal data and secrets in the examples.

    They are found by pattern and checksum, before duplicates are sought, rows divided and tokens
    counted. No value found is in a log, event, status or report: they count kinds.
    """

    action: Literal["Redact", "Drop", "Refuse", "Report", "Off"] = "Redact"
    """`Redact` writes a placeholder such as `<EMAIL_1>` in place of a value, the same one for the
    same value throughout a row. `Drop` leaves rows with such values out. `Refuse` makes each of
    them an invalid row (`maxInvalidRows`), named by file, line and kinds. `Report` counts and
    changes nothing. `Off` does not look."""
    entities: (
        Annotated[
            list[Entity], Field(min_length=1, max_length=16, json_schema_extra=SET_LIST), Unique
        ]
        | None
    ) = None
    """Kinds to look for. `Phone`: international numbers, national ones of `locales`. `Card`:
    payment cards. `NationalID`: tax, social security and identity numbers of `locales`. `Password`:
    in URLs, and assigned in configuration or code. Default: all."""
    locales: (
        Annotated[
            list[Country], Field(min_length=1, max_length=32, json_schema_extra=SET_LIST), Unique
        ]
        | None
    ) = None
    """Countries (ISO 3166) whose phone numbers in national form and whose national identity numbers
    are looked for. Default: all of these."""
    allow: Annotated[
        list[Annotated[str, Field(min_length=3, max_length=256), Texts(ALLOW_RULE)]],
        Field(max_length=100, json_schema_extra=SET_LIST),
        Unique,
    ] = []
    """Values to leave as they are, such as `support@our.example`; `*` stands for any characters, as
    in `*@our.example`. Case counts only in keys and passwords; blanks, dashes and brackets in
    numbers do not count."""


def _is_idle(privacy: Any) -> bool:
    given = (privacy.entities, privacy.locales, privacy.allow)
    return privacy.action == "Off" and any(given)


PRIVACY_RULES: tuple[Rule, ...] = (
    Rule(
        rule=(
            "self.dataset.privacy.action != 'Off' || (!has(self.dataset.privacy.entities) && "
            "!has(self.dataset.privacy.locales) && "
            "(!has(self.dataset.privacy.allow) || self.dataset.privacy.allow.size() == 0))"
        ),
        message=(
            "dataset.privacy: entities, locales and allow have no meaning with action Off: leave "
            "them out, or set another action"
        ),
        field="dataset.privacy.action",
        check=lambda s: not _is_idle(s.dataset.privacy),
    ),
)
