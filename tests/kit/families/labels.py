"""Shows which tokens of a row are learned, as text that a person can read.

``[[`` and ``]]`` stand around what counts in the loss; a line break of the row is shown as ``\\n``
before the break itself. Usage: ``python -m kit.families.labels`` writes the golden files anew.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.data.rows import BadRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.model.chat_format import decide_format
from finetune_trainer.model.encoding import IGNORED, ChatTokenizer, TokenizedExample
from finetune_trainer.prepare.checks.conversations import brings_reasoning
from finetune_trainer.prepare.reading.formats.formats import build_convert
from finetune_trainer.prepare.reading.formats.recognition import recognise_format
from kit.families.family import Family
from kit.families.rows import Shape, shapes_of
from kit.families.table import FAMILIES

GOLDEN = Path(__file__).parent / "golden"
MAX_TOKENS = 4096


def golden_path(family: Family) -> Path:
    """Return the file with the family's labels."""
    return GOLDEN / f"{family.name}.txt"


def show_family(family: Family, tokenizer: Any) -> str:
    """Return what the golden file of a family must say."""
    parts = [f"# {family.name}: {family.origin}\n"]
    if family.arguments:
        parts.append(f"# chatTemplateArguments: {dict(family.arguments)}\n")
    for shape in shapes_of(tokenizer):
        loss = "" if shape.loss == "Auto" else f" (loss {shape.loss})"
        parts.append(f"\n== {shape.title}{loss}\n{show_row(tokenizer, family, shape)}\n")
    return "".join(parts)


def show_row(tokenizer: Any, family: Family, shape: Shape) -> str:
    """Return the row as the trainer sees it, or why it refuses the row."""
    try:
        examples = encode_row(tokenizer, family, shape)
    except (BadRow, TrainerError) as error:
        return f"refused: {error.reason}"
    shown = [show_example(tokenizer, example) for example in examples]
    if len(shown) == 1:
        return shown[0]
    return "\n".join(f"-- example {i} of {len(shown)} {text}" for i, text in enumerate(shown, 1))


def encode_row(tokenizer: Any, family: Family, shape: Shape) -> tuple[TokenizedExample, ...]:
    """Take a row the way that ``prepare`` and ``train`` take it."""
    row = _convert(tokenizer, shape)
    return _encoder(tokenizer, family, shape, row).encode_row(row)


def encode_prompt(tokenizer: Any, family: Family, shape: Shape) -> list[int]:
    """Return the tokens that the evaluation asks the row's last answer with."""
    row = _convert(tokenizer, shape)
    prompt = row["messages"][:-1] if "messages" in row else row["prompt"]
    return _encoder(tokenizer, family, shape, row).encode_prompt(prompt, row.get("tools"))


def stop_ids_of(tokenizer: Any, family: Family) -> list[int]:
    """Return what the family's ``generation_config.json`` says."""
    return [tokenizer.convert_tokens_to_ids(stop) for stop in family.stops]


def _encoder(tokenizer: Any, family: Family, shape: Shape, row: dict[str, Any]) -> ChatTokenizer:
    chat_format = decide_format(
        tokenizer,
        {"eos_token_id": stop_ids_of(tokenizer, family)},
        arguments=family.arguments,
        has_reasoning=brings_reasoning(row),
    )
    return ChatTokenizer(tokenizer, chat_format, loss=shape.loss, max_tokens=MAX_TOKENS)


def spans_of(example: TokenizedExample) -> list[list[int]]:
    """Return the runs of learned tokens; nothing predicts the first token, so it is in none."""
    return [example.input_ids[max(start, 1) : end] for start, end in example.spans]


def _convert(tokenizer: Any, shape: Shape) -> dict[str, Any]:
    source = Source.model_validate({"uri": "file:///rows.jsonl", **shape.source})
    found = recognise_format(source, [shape.row], where="sources[0]")
    convert = build_convert(
        source,
        found.format,
        conversational=bool(tokenizer.chat_template),
        where="sources[0]",
    )
    return convert(shape.row)


def show_example(tokenizer: Any, example: TokenizedExample) -> str:
    """Return an example's text with its learned tokens marked, and their number."""
    text, shown = "", []
    learned = [label != IGNORED for label in example.labels]
    is_open = False
    for end in range(1, len(learned) + 1):
        if learned[end - 1] != is_open:
            shown.append("[[" if learned[end - 1] else "]]")
            is_open = not is_open
        # A token of half a character shows once the character is whole.
        whole = tokenizer.decode(
            example.input_ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if not whole.endswith("\N{REPLACEMENT CHARACTER}"):
            shown.append(whole[len(text) :])
            text = whole
    shown.append("]]" if is_open else "")
    lines = "".join(shown).replace("\\", "\\\\").replace("\n", "\\n\n")
    return f"({sum(learned)} of {len(learned)} tokens)\n{lines}"


def main() -> int:
    """Write all golden files; returns the exit code."""
    GOLDEN.mkdir(exist_ok=True)
    for family in FAMILIES:
        golden_path(family).write_text(show_family(family, family.tokenizer()), encoding="utf-8")
        print(golden_path(family))
    return 0


if __name__ == "__main__":
    sys.exit(main())
