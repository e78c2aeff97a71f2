"""Tokenizers of the families: real ones where a package has them, else made in their shape."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from kit.models.base_model import ensure_model
from kit.models.real_tokenizers import fetch_tokenizer

NUM_MERGED = 600
"""Tokens of a made vocabulary: few, but enough that a blank and a word's start become one token."""


def load_real(model: str, *, template: str | None = None, **changes: Any) -> Any:
    """Load a fetched tokenizer, with another template where the package has none of the family."""
    return _load(fetch_tokenizer(model), template, changes)


def load_smollm2() -> Any:
    """Load the tokenizer of SmolLM2-135M-Instruct."""
    return _load(ensure_model(), None, {})


def load_phi3() -> Any:
    """Make Phi-3's: the vocabulary of Llama 2 with eleven more tokens from 32000 on."""
    from tokenizers import AddedToken

    tokenizer = load_real("llama2", template=template_of_trl("phi3"))
    added = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|placeholder2|>"]
    added += ["<|placeholder3|>", "<|placeholder4|>", "<|system|>", "<|end|>"]
    added += ["<|placeholder5|>", "<|placeholder6|>", "<|user|>"]
    # The tokens of the template swallow the white space behind them, its line break included.
    tokens = [AddedToken(token, rstrip=token != "<|endoftext|>") for token in added]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


def make_byte_level(
    *,
    special: tuple[str, ...],
    eos: str,
    bos: str | None = None,
    pad: str | None = None,
    template: str | None = None,
    writes_bos: bool = False,
) -> Any:
    """Train a byte-level BPE on a page of text.

    Args:
        special: Tokens that text cannot make.
        eos: The end token, one of ``special``.
        bos: The begin token.
        pad: The padding token.
        template: Chat template; None for a base model.
        writes_bos: Whether the tokenizer itself puts ``bos`` before plain text.
    """
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        _text(),
        trainers.BpeTrainer(
            vocab_size=NUM_MERGED,
            special_tokens=list(special),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    if writes_bos:
        assert bos is not None
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=list(special),
    )
    tokenizer.chat_template = template
    return tokenizer


def template_of_trl(name: str) -> str:
    """Return a family's chat template as the installed TRL stores it, to tell families apart."""
    spec = importlib.util.find_spec("trl")  # found, not imported: that takes seconds
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "chat_templates"
    return (folder / f"{name}.jinja").read_text(encoding="utf-8")


def _load(folder: Path, template: str | None, changes: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **changes)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


@functools.cache
def _text() -> list[str]:
    # Any English will do; this much of it is at hand on every machine.
    import argparse
    import inspect

    return inspect.getsource(argparse).splitlines()
