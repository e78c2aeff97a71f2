"""What comes of the tokens that a model generates."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune_trainer.model.chat_format import decide_format
from finetune_trainer.model.encoding import ChatTokenizer
from kit.models.awkward_templates import OPENS_REASONING
from kit.models.generating import generate_answers
from kit.models.tiny_tokenizer import CHATML, make_tokenizer

pytestmark = pytest.mark.slow  # it needs torch


class Scripted:
    """A model that says to each prompt of a batch what it is told to."""

    device = torch.device("cpu")

    def __init__(self, texts: Sequence[str]) -> None:
        self._said = [list(make_tokenizer()(text)["input_ids"]) for text in texts]

    def generate(
        self, input_ids: torch.Tensor, *, max_new_tokens: int, pad_token_id: int, **_: Any
    ) -> Any:
        size = min(max_new_tokens, max(map(len, self._said)))
        rows = [[*said, *[pad_token_id] * size][:size] for said in self._said]
        return SimpleNamespace(sequences=torch.cat([input_ids, torch.tensor(rows)], dim=1))


def answer(template: str, texts: Sequence[str], limit: int) -> list[str | None]:
    tokenizer = make_tokenizer(chat_template=template)
    encoder = ChatTokenizer(tokenizer, decide_format(tokenizer), max_tokens=1000)
    prompts = [encoder.encode_prompt([{"role": "user", "content": text}]) for text in texts]
    said = generate_answers(
        Scripted(texts),
        encoder,
        prompts,
        range(len(prompts)),
        max_new_tokens=limit,
    )
    return list(said.values())


@pytest.mark.parametrize(
    ("template", "limit", "expected"),
    [
        (OPENS_REASONING, 60, [None, "positive"]),
        (OPENS_REASONING, 12, [None, None]),
        (CHATML, 60, ["I think positive fits.", "Hm, a joke.</think>\n\npositive"]),
        (CHATML, 12, ["I think posi", "Hm, a joke.<"]),
    ],
)
def test_a_thought_that_is_cut_is_not_taken_for_the_answer(
    template: str, limit: int, expected: list[str | None]
) -> None:
    texts = ["I think positive fits.<|im_end|>", "Hm, a joke.</think>\n\npositive<|im_end|>"]
    assert answer(template, texts, limit) == expected
