"""The settings of runs, and those in which they differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEFT_OUT = frozenset(
    {
        "output",
        "s3",
        "suspend",
        "trainer",
        "holdAfter",
        "prune",
        "tracking",
        "queueName",
        "priorityClassName",
        "podTemplate",
        "backoffLimit",
        "retryPolicy",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
        "budget",
    }
)
"""Output and lifecycle settings, which do not change the training."""

CHOSEN = {
    "hyperparameters.learningRate": "learning_rate",
    "hyperparameters.globalBatchSize": "global_batch_size",
    "hyperparameters.microBatchSize": "micro_batch_size",
}
"""Settings that may be ``auto``, and their names in a run's record."""

PINNED = "model.pinned"
"""Path of the base model's resolved revision, known after training."""

_OF_ANYTHING = frozenset({"uri", "name", "type", "revision", "digest"})
"""Names that are unclear without their parent."""

ABSENT = "-"
"""Text for a setting that a run does not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A setting that is not the same in all runs.

    Attributes:
        path: In the job, from ``spec`` on.
        label: The shortest unique end of the path.
        values: Of each run, as text.
    """

    path: str
    label: str
    values: tuple[str, ...]


def flatten(spec: Mapping[str, Any], record: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the settings of a job by path, as text; ``record`` is of a trained run."""
    found: dict[str, str] = {}
    for name, value in spec.items():
        if name not in LEFT_OUT:
            _flatten_into(found, name, value)
    chosen = (record or {}).get("recipe", {})
    for path, name in CHOSEN.items():
        if found.get(path, "").lower() == "auto" and name in chosen:
            found[path] = f"{chosen[name]:g} (auto)"
    if record and record.get("revision"):
        found[PINNED] = str(record["revision"])
    if record and record.get("initFrom"):
        found["initFrom.digest"] = str(record["initFrom"]["digest"])
    return found


def _flatten_into(found: dict[str, str], path: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for name, each in value.items():
            _flatten_into(found, f"{path}.{name}", each)
    elif isinstance(value, list) and any(isinstance(each, Mapping | list) for each in value):
        for number, each in enumerate(value):
            name = each.get("name", number) if isinstance(each, Mapping) else number
            _flatten_into(found, f"{path}[{name}]", each)
    elif isinstance(value, list):
        if value:
            found[path] = ", ".join(map(_text, value))
    elif value is not None:
        found[path] = _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def find_parameters(recipes: Sequence[Mapping[str, str]]) -> list[Parameter]:
    """Return the settings that are not the same in all runs, by path.

    Numbers compare as numbers: ``1e-4`` equals ``0.0001``. An unsettled ``auto`` differs from
    nothing.
    """
    paths = sorted({path for recipe in recipes for path in recipe})
    found = []
    for path in paths:
        values = tuple(recipe.get(path, ABSENT) for recipe in recipes)
        known = [each for each in values if not _is_open(path, each)]
        distinct = {value if (number := _number(value)) is None else number for value in known}
        if len(distinct) > 1:
            found.append((path, values))
    labels = _shorten([path for path, _ in found])
    return [
        Parameter(path=path, label=label, values=values)
        for (path, values), label in zip(found, labels, strict=True)
    ]


def _is_open(path: str, value: str) -> bool:
    return (path == PINNED and value == ABSENT) or (path in CHOSEN and value.lower() == "auto")


def _number(value: str) -> float | None:
    try:
        return float(value.removesuffix(" (auto)"))
    except ValueError:
        return None


def _shorten(paths: Sequence[str]) -> list[str]:
    """Return the shortest unique and clear end of each path."""
    labels = []
    for path in paths:
        parts = path.split(".")
        least = min(len(parts), 2 if parts[-1] in _OF_ANYTHING else 1)
        for size in range(least, len(parts) + 1):
            label = ".".join(parts[-size:])
            if sum(other == label or other.endswith(f".{label}") for other in paths) == 1:
                break
        labels.append(label)
    return labels
