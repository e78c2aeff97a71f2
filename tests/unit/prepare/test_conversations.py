"""What is done so that a chat template fits the rows is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.spec.model import Model
from finetune_trainer.prepare.checks.conversations import DEVELOPER_NOTE, choose_format
from kit.models.tiny_tokenizer import make_tokenizer

PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PLAIN += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
KNOWS = PLAIN + "{# developer #}"


def turn(role: str) -> dict[str, Any]:
    return {"role": role, "content": "x"}


def conversation(*roles: str) -> dict[str, Any]:
    return {"messages": [turn(role) for role in roles]}


DEVELOPER = conversation("developer", "user", "assistant")
PAIR = {"prompt": [turn("developer"), turn("user")], "completion": [turn("assistant")]}
OTHER = conversation("system", "user", "assistant")


@pytest.mark.parametrize(
    ("template", "rows", "is_told"),
    [
        (PLAIN, [OTHER, DEVELOPER], True),
        (PLAIN, [PAIR], True),
        (PLAIN, [OTHER, {"text": "developer"}, {"prompt": "a", "completion": "b"}], False),
        (KNOWS, [DEVELOPER], False),
    ],
)
def test_a_developer_who_becomes_the_system_is_told(
    template: str, rows: list[dict[str, Any]], is_told: bool, tmp_path: Path
) -> None:
    model = Model(uri="hf://org/model")
    chosen = choose_format(model, template, make_tokenizer(), tmp_path, rows)
    assert (DEVELOPER_NOTE in chosen.notes) == is_told
