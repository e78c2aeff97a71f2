"""The transformers engine beside ``generate`` and beside transformers' continuous batching.

All three answer the same prompts greedily and score the same references. The engine scores each
reference in the pass that reads its prompt; the others score them afterwards, in batches of their
own. The prompts are lines of this repository's documentation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
)

from finetune_trainer.evaluate.inference.engine import Prompt
from finetune_trainer.evaluate.inference.transformers_engine import TransformersEngine
from finetune_trainer.evaluate.tokenized import make_batches
from finetune_trainer.model.encoding import TokenizedExample
from finetune_trainer.planning.answering import HELD_TOKENS

DOCS = Path(__file__).parents[2] / "docs"
CHARACTERS = range(100, 400)


def make_prompts(tokenizer: Any, number: int, limit: int) -> list[Prompt]:
    """Return prompts of many lengths, each with the next line of the file as reference."""
    texts = [line for path in sorted(DOCS.rglob("*.md")) for line in path.read_text().splitlines()]
    texts = [text for text in texts if len(text) in CHARACTERS]
    prompts = []
    for text in texts[:: max(1, len(texts) // number)][:number]:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"Shorten: {text}"}],
            add_generation_prompt=True,
            return_dict=False,
        )
        answer = tokenizer(text)["input_ids"][:limit]
        reference = TokenizedExample(
            input_ids=[*ids, *answer], spans=((len(ids), len(ids) + len(answer)),), num_cut=0
        )
        prompts.append(Prompt(token_ids=ids, max_new_tokens=limit, reference=reference))
    return prompts


def score_alone(engine: TransformersEngine, prompts: Sequence[Prompt]) -> None:
    """Score the references in batches of their own."""
    rows = [prompt.reference for prompt in prompts if prompt.reference is not None]
    for batch in make_batches([len(row.input_ids) for row in rows]):
        list(engine.score([rows[index] for index in batch]))


def generate_by_engine(
    engine: TransformersEngine, prompts: Sequence[Prompt], stop_ids: Sequence[int]
) -> dict[int, list[int]]:
    """Answer and score with the engine, in the batches of an evaluation."""
    rooms = [len(prompt.token_ids) + prompt.max_new_tokens for prompt in prompts]
    said: dict[int, list[int]] = {}
    for batch in make_batches(rooms, num_tokens=HELD_TOKENS[0]):
        for part in engine.generate([prompts[index] for index in batch], stop_ids=stop_ids):
            said |= {batch[at]: part[at].token_ids for at in part}
    return said


def generate_plainly(
    model: Any, prompts: Sequence[Prompt], settings: GenerationConfig, batch_size: int
) -> dict[int, list[int]]:
    """Answer with ``generate``, prompts of like length together."""
    said: dict[int, list[int]] = {}
    for batch in make_batches([len(prompt.token_ids) for prompt in prompts], batch_size):
        rows = [list(prompts[index].token_ids) for index in batch]
        width = max(map(len, rows))
        ids = torch.tensor([[settings.pad_token_id] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        said |= dict(zip(batch, output[:, width:].tolist(), strict=True))
    return said


def generate_continuously(
    model: Any, prompts: Sequence[Prompt], settings: GenerationConfig
) -> dict[int, list[int]]:
    """Answer with transformers' continuous batching, with room for as many tokens as the engine."""
    batching = ContinuousBatchingConfig(
        page_size=16,
        num_blocks=2 * HELD_TOKENS[0] // 16,
        max_batch_tokens=HELD_TOKENS[-1],
        auto_switch_to_flash=False,
    )
    found = model.generate_batch(
        [list(prompt.token_ids) for prompt in prompts],
        generation_config=settings,
        continuous_batching_config=batching,
    )
    assert len(found) == len(prompts), f"{len(found)} of {len(prompts)} prompts were answered"
    return {index: each.generated_tokens for index, each in enumerate(found.values())}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_folder")
    parser.add_argument("num_prompts", type=int, nargs="?", default=96)
    parser.add_argument("max_new_tokens", type=int, nargs="?", default=64)
    arguments = parser.parse_args()
    folder, limit = arguments.model_folder, arguments.max_new_tokens
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    prompts = make_prompts(tokenizer, arguments.num_prompts, limit)
    alone = [replace(prompt, reference=None) for prompt in prompts]
    stop, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    settings = GenerationConfig(
        max_new_tokens=limit, do_sample=False, eos_token_id=stop, pad_token_id=pad
    )
    model.generation_config = GenerationConfig()
    engine = TransformersEngine(model, pad_id=pad)
    ways: dict[str, Callable[[], dict[int, list[int]]]] = {
        "the engine, references in the same pass": lambda: generate_by_engine(
            engine, prompts, [stop]
        ),
        "the engine, references alone": lambda: generate_by_engine(engine, alone, [stop]),
        "generate, 32 at once": lambda: generate_plainly(model, prompts, settings, 32),
        "generate, 128 at once": lambda: generate_plainly(model, prompts, settings, 128),
        "continuous batching": lambda: generate_continuously(model, prompts, settings),
    }
    generate_by_engine(engine, prompts[:4], [stop])
    first: dict[int, list[int]] = {}
    print("| way | wall s: answers, references | processor s | answers equal to the engine's |")
    print("|---|---|---|---|")
    for name, answer in ways.items():
        began, spent = time.monotonic(), time.process_time()
        said = answer()
        answered = time.monotonic()
        if first:
            score_alone(engine, prompts)
        ended = time.monotonic()
        said = {index: cut(ids, stop) for index, ids in said.items()}
        first = first or said
        equal = sum(said[index] == first[index] for index in first)
        print(
            f"| {name} | {answered - began:.1f}, {ended - answered:.1f} | "
            f"{time.process_time() - spent:.1f} | {equal} of {len(first)} |",
            flush=True,
        )


def cut(ids: list[int], stop: int) -> list[int]:
    """Return an answer up to its end."""
    return ids[: ids.index(stop)] if stop in ids else ids


if __name__ == "__main__":
    main()
