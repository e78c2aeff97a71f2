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


class BrokenRulesError(ValueError):
    """An object breaks cross-field rules.

    Attributes:
        rules: The broken ones, in the order they are declared.
    """

    def __init__(self, rules: list[Rule]) -> None:
        super().__init__("; ".join(rule.message for rule in rules))
        self.rules = rules


def check_rules(value: object, rules: Iterable[Rule]) -> None:
    """Check cross-field rules.

    Raises:
        BrokenRulesError: With every rule that ``value`` breaks.
    """
    broken = [rule for rule in rules if not rule.check(value)]
    if broken:
        raise BrokenRulesError(broken)
