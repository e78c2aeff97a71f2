"""Cross-field rules that hold both here and on the API server.

Each rule carries its CEL expression for the CRD and a Python check for local validation, under one
message. A table of good and bad specs keeps the two in step (``tests/unit/api``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One cross-field rule.

    Attributes:
        rule: CEL expression over ``self``, true when the object is good.
        message: What is wrong and what to write instead.
        field: Path of the offending field below ``spec``, wire names.
        check: The same rule in Python, true when the object is good.
    """

    rule: str
    message: str
    field: str
    check: Callable[[Any], bool]


def check_rules(value: object, rules: Iterable[Rule]) -> None:
    """Raise ValueError with the messages of all rules that ``value`` breaks."""
    broken = [rule.message for rule in rules if not rule.check(value)]
    if broken:
        raise ValueError("; ".join(broken))
