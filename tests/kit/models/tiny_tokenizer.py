"""A tokenizer made on the spot: every byte is a token, conversations are written as ChatML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from finetune_trainer.context import StageContext
from finetune_trainer.run import BaseModel

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM_CHATML = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


def make_tokenizer(*, chat_template: str | None = CHATML) -> Any:
    """Build the tokenizer; None as template makes it that of a base model."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>" if chat_template else "<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


class TinyModel(BaseModel):
    """A base model without weights, with that tokenizer."""

    num_tokenizer_loads = 0
    has_weights = False
    chat_template: str | None = CHATML

    def fetch(self, *, include_weights: bool = True) -> tuple[Path, str]:
        self.has_weights |= include_weights
        return self.cache_dir, "c" * 40

    def load_tokenizer(self) -> Any:
        self.num_tokenizer_loads += 1
        return make_tokenizer(chat_template=self.chat_template)


class TinyContext(StageContext):
    """The context of a stage whose base model is a :class:`TinyModel`."""

    model: TinyModel

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model = TinyModel(storage=self.storage, cache_dir=self.cache_dir)
