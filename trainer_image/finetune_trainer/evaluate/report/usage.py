"""What training took, read from the run's curve: it alone may differ between equal runs. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.pages.rendering import size_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What training took; None where nobody measured it.

    Attributes:
        hardware: Kind of device of each rank.
        num_tokens: Tokens that were trained on, repeated ones as often as they were.
        seconds: Time of the steps that count, validation included; of a run that was resumed
            without what was lost.
        peak_bytes: Most memory that rank 0 held.
    """

    hardware: str | None = None
    num_tokens: int | None = None
    seconds: float | None = None
    peak_bytes: int | None = None


def read_usage(curve: str, *, was_resumed: bool) -> Usage:
    """Read what a run's ``metrics.jsonl`` says of time, tokens and memory.

    Args:
        curve: The file's text; a line that is no JSON is passed over.
        was_resumed: Whether the last attempt was not the first: then its own time is not that of
            the run.
    """
    points = [point for line in curve.splitlines() if (point := _parse(line))]
    tokens = [int(point["num_tokens"]) for point in points if "num_tokens" in point]
    return Usage(
        hardware=_last(points, "hardware"),
        num_tokens=tokens[-1] if tokens else None,
        seconds=_sum_seconds(points) if was_resumed else _last(points, "train_runtime"),
        peak_bytes=_last(points, "peak_memory_bytes"),
    )


def usage_facts(usage: Usage, recipe: Mapping[str, Any], *, num_nodes: int) -> dict[str, str]:
    """Return what training took, by label; for the page.

    Args:
        usage: What was read.
        recipe: The recipe of the run's ``run.json``.
        num_nodes: Nodes that trained.
    """
    ranks = int(recipe["world_size"])
    kind = usage.hardware or ("GPU" if recipe["use_gpu"] else "CPU")
    where = f" on {num_nodes} nodes" if num_nodes > 1 else ""
    facts = {"Hardware": f"{ranks} x {kind}{where}"}
    if usage.num_tokens:
        facts["Tokens trained on"] = f"{usage.num_tokens:,}"
    if usage.seconds:
        facts["Time of the steps"] = duration_text(usage.seconds)
        if usage.num_tokens:
            facts["Tokens a second"] = f"{usage.num_tokens / usage.seconds:,.0f}"
        if recipe["use_gpu"]:
            facts["GPU hours of the steps"] = f"{usage.seconds * ranks / 3600:.2f}"
    if usage.peak_bytes:
        facts["Peak memory of a rank"] = size_text(usage.peak_bytes)
    return facts


def duration_text(seconds: float) -> str:
    """Return a duration as people read it: ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _parse(line: str) -> dict[str, Any]:
    try:
        point = json.loads(line)
    except ValueError:
        return {}
    return point if isinstance(point, dict) else {}


def _last(points: Sequence[Mapping[str, Any]], name: str) -> Any:
    return next((point[name] for point in reversed(points) if name in point), None)


def _sum_seconds(points: Sequence[Mapping[str, Any]]) -> float | None:
    """Add up the time between points, each from its tokens and their rate.

    The first point of an attempt has no rate: its time is that of a start, not of training.
    """
    seconds, before = 0.0, 0
    for point in points:
        if "num_tokens" not in point:
            continue
        rate = point.get("tokens_per_second")
        if rate:
            seconds += (point["num_tokens"] - before) / rate
        before = point["num_tokens"]
    return seconds or None
