"""The licence of a base model, as its configuration or its card states it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.spec.model import Model
from finetune_trainer.errors import UserError
from finetune_trainer.model.load import read_config

_OTHER = "other"
"""Licence in a card for a licence that the Hub does not know."""


def read_licence(folder: Path) -> str | None:
    """Return the short names of a model's licences, with commas; None if it states none.

    Source: Hugging Face, "Model card metadata": ``license``, and ``license_name`` for ``other``.
    """
    try:
        stated = _text_of(read_config(folder).get("license"))
    except UserError:
        stated = None  # whoever loads the model tells what is wrong with it
    if stated is not None:
        return stated
    card = _read_card(folder / "README.md")
    stated = _text_of(card.get("license"))
    if stated is not None and stated.casefold() == _OTHER:
        return _text_of(card.get("license_name")) or stated
    return stated


def licence_of(model: Model, folder: Path) -> str | None:
    """Return the licence of a job: the model's statement, else the job's."""
    return read_licence(folder) or model.licence


def _read_card(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    from huggingface_hub import ModelCard

    try:
        card: dict[str, Any] = ModelCard.load(path).data.to_dict()
    except Exception:  # text of strangers: of YAML and of metadata anything may be wrong
        return {}
    return card


def _text_of(value: object) -> str | None:
    names = value if isinstance(value, list) else [value]
    texts = [name.strip() for name in names if isinstance(name, str) and name.strip()]
    return ", ".join(texts) or None
