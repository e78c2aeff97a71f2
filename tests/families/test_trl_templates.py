"""What TRL's own training templates label, beside what we label, where TRL knows the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pytest

from kit.families.labels import encode_row, spans_of
from kit.families.rows import ASKS_FRANCE, ASKS_ITALY, PARIS, ROME, SYSTEM, Shape
from kit.families.table import FAMILIES
from kit.models.real_tokenizers import TokenizerUnavailableError


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What TRL labels otherwise than we do.

    Attributes:
        before: Labelled before each answer, though generation is given it.
        after_last: Labelled after the end of the last answer, where generation has stopped.
        past_end: Ends an answer that others follow; generation ends all of them as the last one.
    """

    before: str = ""
    after_last: str = ""
    past_end: str | None = None

    def apply(self, ours: Sequence[str]) -> list[str]:
        """Return what TRL labels where we label ``ours``."""
        *past, last = (self.before + text for text in ours)
        if self.past_end is not None:
            past = [text[: text.rindex("<|")] + self.past_end for text in past]
        return [*past, last + self.after_last]


KNOWN = {
    "qwen-2.5": Difference(),
    "gemma-3": Difference(),
    "lfm2": Difference(),
    "phi-3": Difference(after_last="<|endoftext|>"),
    "gpt-oss": Difference(before="<|start|>assistant", past_end="<|end|>"),
}
"""Families whose template TRL 1.16 knows word for word."""
ROWS = (
    [ASKS_FRANCE, PARIS],
    [SYSTEM, ASKS_FRANCE, PARIS],
    [ASKS_FRANCE, PARIS, ASKS_ITALY, ROME],
)


@pytest.mark.parametrize("name", KNOWN)
def test_we_label_what_the_training_template_of_trl_labels_but_for_what_is_stated(
    name: str,
) -> None:
    from trl.chat_template_utils import get_training_chat_template

    family = next(each for each in FAMILIES if each.name == name)
    try:
        tokenizer = family.tokenizer()
    except TokenizerUnavailableError as error:
        pytest.skip(str(error))
    template = get_training_chat_template(tokenizer)
    assert template is not None
    for messages in ROWS:
        shape = Shape(title="chat", row={"messages": messages})
        examples = encode_row(tokenizer, family, shape)
        ours = [tokenizer.decode(span) for each in examples for span in spans_of(each)]
        theirs = labelled_by(tokenizer, template, messages)
        # After the token that ends an answer, nothing is ever generated: a line break there is
        # labelled by some of their templates.
        assert [text.strip() for text in theirs] == KNOWN[name].apply([t.strip() for t in ours])


def labelled_by(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> list[str]:
    made = tokenizer.apply_chat_template(
        messages,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    pairs = zip(made["input_ids"], made["assistant_masks"], strict=True)
    runs = groupby(pairs, key=lambda pair: pair[1])
    return [tokenizer.decode([token for token, _ in run]) for is_label, run in runs if is_label]
