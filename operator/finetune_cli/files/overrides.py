"""Change one field of an object, as ``--set path=value`` asks."""

from __future__ import annotations

from typing import Any

import yaml

from finetune_api.messages.messages import schema_of_kind
from finetune_api.meta import KIND
from finetune_cli.errors import CliError
from finetune_cli.files.documents import KubernetesLoader, decimals_as_text


def apply_override(body: dict[str, Any], override: str) -> None:
    """Change one field of a job in place by ``path=value``, by default below ``spec``.

    Raises:
        CliError: It is not of that form, or there is no such place.
    """
    path, separator, text = override.partition("=")
    parts = [part for part in path.strip().split(".") if part]
    if not separator or not parts:
        raise CliError(
            f"--set {override}: write path=value, for example --set hyperparameters.epochs=1"
        )
    if parts[0] not in ("spec", "metadata"):
        parts.insert(0, "spec")
    target: Any = body
    for part in parts[:-1]:
        target = _descend(target, part, override)
    schema = _schema_at(parts)
    is_text = schema.get("type") == "string" or "pattern" in schema
    value = text if is_text else decimals_as_text(_read_value(text, override), schema, [])
    if isinstance(target, list):
        target[_position(target, parts[-1], override)] = value
    else:
        target[parts[-1]] = value


def _read_value(text: str, override: str) -> Any:
    try:
        return yaml.load(text, KubernetesLoader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        cause = getattr(error, "problem", None) or error
        raise CliError(
            f"--set {override}: the value {text} is not valid YAML: {cause}; write a number, a "
            "text, a list like [a, b] or an object like {a: 1}, in single quotes for the shell"
        ) from error


def _descend(target: Any, part: str, override: str) -> Any:
    if isinstance(target, list):
        return target[_position(target, part, override)]
    if target.get(part) is None:
        target[part] = {}
    child = target[part]
    if not isinstance(child, dict | list):
        raise CliError(f"--set {override}: {part} is {child!r}, it has no fields below it")
    return child


def _position(target: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(target):
        raise CliError(
            f"--set {override}: {part!r} is no position in a list of {len(target)} items, "
            "which count from 0"
        )
    return int(part)


def _schema_at(parts: list[str]) -> dict[str, Any]:
    """Return the schema of a field, so that text such as ``epochs=1`` needs no quotes."""
    schema = schema_of_kind(KIND)
    for part in parts:
        if part.isdigit():
            schema = schema.get("items", {})
        else:
            schema = schema.get("properties", {}).get(part, {})
    return schema
