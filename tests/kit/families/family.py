"""A model family: its tokenizer, a tiny model of its architecture, and what is expected of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MakeTokenizer = Callable[[], Any]
MakeConfig = Callable[[Any], Any]

TOKEN_SCALE = 0.5
LAYER_SCALE = 0.125
"""Standard deviation of the random token vectors and of all other weights. At the usual 0.02 no
logit of so narrow a model could rise above the noise of a vocabulary of 128 thousand, and hardly
anything of the prompt would reach the place of the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One row of the table.

    Attributes:
        name: Name of its golden file and of its tests.
        tokenizer: Makes the tokenizer, with the chat template that users of the family have.
        config: Makes the configuration of a tiny model from the tokenizer.
        origin: Where the tokenizer comes from, for the table.
        stops: Tokens that the family's ``generation_config.json`` ends answers with.
        ends: Tokens besides ``stops`` that the template ends an answer with.
        header: Text that the model itself has to say before an answer.
        arguments: ``model.chatTemplateArguments`` of the job.
        refuses: Titles of the row shapes that its template cannot write.
        refused: Reason that the job is refused with, or None when it must work.
        num_steps: Steps after which its tiny model knows the eight rows.
        batch_size: Examples of a step.
        learning_rate: Peak learning rate.
        in_every_test_run: Whether the whole chain runs in ``make test-all``.
    """

    name: str
    tokenizer: MakeTokenizer
    config: MakeConfig
    origin: str
    stops: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    header: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    refuses: tuple[str, ...] = ()
    refused: str | None = None
    num_steps: int = 50
    batch_size: int = 8
    learning_rate: str = "5e-3"
    in_every_test_run: bool = False

    def read_answer(self, text: str) -> str:
        """Return the answer in what a model of the family says, decoded without special tokens."""
        said = text.rpartition("</think>")[2]
        return (said.rpartition(self.header)[2] if self.header else said).strip()


def write_model(family: Family, folder: Path) -> Path:
    """Write tokenizer and random float32 weights as a model folder of the family looks."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    tokenizer = family.tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = family.config(tokenizer)
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    for name in ("initializer_range", "init_std"):
        if hasattr(config, name):
            setattr(config, name, LAYER_SCALE)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(std=TOKEN_SCALE)
        model.get_input_embeddings().weight.normal_(std=TOKEN_SCALE)
    stops = family.stops or (tokenizer.eos_token,)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.convert_tokens_to_ids(stop) for stop in stops],
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    return folder
