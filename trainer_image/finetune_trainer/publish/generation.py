"""Generation settings of the evaluation and of the published model.

An evaluation is greedy, but the folder of a whole model ships its base's settings, so the card
names both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NO_ANSWER = ("transformers_version", "use_cache", "cache_implementation", "cache_config")
_NEUTRAL: Mapping[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "num_beams": 1,
    "length_penalty": 1.0,
}
"""The values of absent settings."""
GREEDY = (
    "The evaluation's answers are greedy: the likeliest token each time, as with temperature 0, "
    "and no other setting."
)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings by which a model's folder has answers generated; stop tokens are none."""
    path = folder / "generation_config.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        name: value
        for name, value in sorted(found.items())
        if not (name.startswith("_") or name.endswith("_token_id") or name in _NO_ANSWER)
        and value is not None
        and (name not in _NEUTRAL or value != _NEUTRAL[name])
    }


def generation_words(record: Mapping[str, Any], *, is_whole: bool) -> str:
    """Return sentences on the settings of the evaluation and of later use.

    ``is_whole`` says that the folder holds a whole model.
    """
    settings = record.get("generation")
    if not settings:
        return GREEDY
    told = ", ".join(f"{name}: {json.dumps(value)}" for name, value in settings.items())
    if is_whole:
        return (
            f"{GREEDY} The folder's generation_config.json ships the base model's settings: "
            f"{told}. Servers and transformers follow them unless they are asked otherwise, and no "
            "score is about such answers."
        )
    return (
        f"{GREEDY} The base model's folder ships settings of its own: {told}. Servers follow them "
        "unless they are asked otherwise or given the adapter's generation_config.json, which "
        "names stop tokens alone; no score is about such answers."
    )
