"""Cross-field rules that hold both here and on the API server.

Each rule has a CEL expression for the CRD, a Python check, and one message; both sides compute
values in it. A table of good and bad specs compares them (``tests/unit/api``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.patterns import is_stored


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One cross-field rule.

    Attributes:
        rule: CEL expression over ``self``, true when the object is good; or several, which must all
            be true and may stand at different places in the CRD; or a function that returns it,
            where only the CRD needs it.
        field: Path of the offending field below ``spec``, wire names.
        check: The same rule in Python, true when the object is good.
        message_expression: CEL that computes the message, where it names values; the API server
            falls back to ``message``.
        only_new: Whether it is newer than stored objects that break it: it applies only to new
            objects.
    """

    rule: str | tuple[str, ...] | Callable[[], str]
    message: str
    field: str
    check: Callable[[Any], bool]
    message_expression: str = ""
    explain: Callable[[Any], str] | None = None
    only_new: bool = False

    @property
    def expressions(self) -> tuple[str, ...]:
        """What must be true in CEL, all of it."""
        if callable(self.rule):
            return (self.rule(),)
        return (self.rule,) if isinstance(self.rule, str) else self.rule

    def message_for(self, value: object) -> str:
        """Return the message for an object that breaks the rule."""
        return self.explain(value) if self.explain else self.message


def edit_rule(expression: str, message: str, field: str) -> dict[str, Any]:
    """Return a validation that refuses an edit of a field of ``spec``, for the CRD only."""
    return {
        "rule": expression,
        "message": message,
        "reason": "FieldValueForbidden",
        "fieldPath": f".spec.{field}",
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenRule:
    """A rule that an object breaks.

    Attributes:
        field: Path of the offending field below ``spec``, wire names.
    """

    field: str
    message: str


class BrokenRulesError(ValueError):
    """An object breaks cross-field rules.

    Attributes:
        broken: The broken ones, in the order they are declared.
    """

    def __init__(self, broken: Sequence[BrokenRule]) -> None:
        super().__init__("; ".join(rule.message for rule in broken))
        self.broken = tuple(broken)


def find_broken(value: object, rules: Iterable[Rule]) -> list[BrokenRule]:
    """Return every rule that ``value`` breaks."""
    return [
        BrokenRule(field=rule.field, message=rule.message_for(value))
        for rule in rules
        if not rule.check(value)
    ]


def check_rules(
    value: object, rules: Iterable[Rule], *, context: Mapping[str, Any] | None = None
) -> None:
    """Check cross-field rules.

    Args:
        value: The object.
        rules: The rules; those that are ``only_new`` are left out in context ``STORED``.
        context: Context of the validation, or None.

    Raises:
        BrokenRulesError: With every rule that ``value`` breaks.
    """
    stored = is_stored(context)
    broken = find_broken(value, (rule for rule in rules if not (stored and rule.only_new)))
    if broken:
        raise BrokenRulesError(broken)
