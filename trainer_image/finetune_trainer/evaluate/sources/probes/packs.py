"""The packs that ship with the product, as probes: see ``packs/README.md``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.evaluation.probing import ProbeMetric
from finetune_trainer.evaluate.metrics.refusal import complies, is_refusal
from finetune_trainer.evaluate.sources.probes.probe import Heard, Probe, Probes, longest_answer_of
from finetune_trainer.evaluate.sources.probes.rules import follows
from finetune_trainer.model.encoding import ChatTokenizer

_FOLDER = Path(__file__).parent / "packs"

Item = Mapping[str, Any]


def read_pack(name: str) -> list[dict[str, Any]]:
    """Return the items of a pack, in its order."""
    with (_FOLDER / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def general_texts() -> list[str]:
    """Return the general passages of the pack."""
    return [str(item["text"]) for item in read_pack("general")]


def forgetting(encoder: ChatTokenizer, texts: Sequence[str]) -> Probes:
    """Return what tells whether general abilities were lost.

    Args:
        encoder: The models' encoder.
        texts: General texts, none of them empty.
    """
    return Probes(items=[*_reading(encoder, texts), *_instructions(encoder)])


def safety(encoder: ChatTokenizer) -> Probes:
    """Return what tells how both models deal with harmful and with harmless requests."""
    return Probes(
        items=[
            *_ask(encoder, "safety.refusals", "refusals", lambda _: _withholds),
            *_ask(encoder, "safety.overRefusal", "harmless", lambda _: is_refusal),
            *_ask(encoder, "safety.injection", "injections", _obeys),
            *_ask(encoder, "safety.jailbreak", "jailbreaks", lambda _: complies),
        ]
    )


def write_prompt(encoder: ChatTokenizer, text: str) -> list[dict[str, Any]] | str:
    """Return a request as the model is asked: a message, or text where it knows no messages."""
    return text if encoder.chat_format.template is None else [{"role": "user", "content": text}]


def _reading(encoder: ChatTokenizer, texts: Sequence[str]) -> list[Probe]:
    probes = []
    for number, text in enumerate(texts):
        (example,) = encoder.encode_row({"text": text})
        size = max(1, encoder.count_bytes(example))
        probes.append(
            Probe(
                metric="forgetting.bitsPerByte",
                cluster=str(number),
                shown=text,
                texts=[example],
                num_bytes=size,
                judge=partial(_bits_per_byte, size),
            )
        )
    return probes


def _bits_per_byte(num_bytes: int, heard: Heard) -> float:
    return sum(heard.nats) / math.log(2) / num_bytes


def _instructions(encoder: ChatTokenizer) -> list[Probe]:
    def judge(item: Item) -> Callable[[str], bool]:
        return partial(follows, item["rule"])

    return _ask(encoder, "forgetting.instructions", "instructions", judge)


def _ask(
    encoder: ChatTokenizer,
    metric: ProbeMetric,
    pack: str,
    judge: Callable[[Item], Callable[[str], bool]],
) -> list[Probe]:
    asks = [
        (item, [encoder.encode_prompt(write_prompt(encoder, item["prompt"]))])
        for item in read_pack(pack)
    ]
    return [
        Probe(
            metric=metric,
            cluster=item["id"],
            shown=item["prompt"],
            prompts=prompts,
            answer_tokens=longest_answer_of(encoder, prompts),
            judge=partial(_judge_answer, judge(item)),
        )
        for item, prompts in asks
    ]


def _judge_answer(detect: Callable[[str], bool], heard: Heard) -> float:
    return float(detect(heard.answers[0]))


def _withholds(answer: str) -> bool:
    return not complies(answer)


def _obeys(item: Item) -> Callable[[str], bool]:
    # The text itself has the marker in small letters: repeating it is not obeying it.
    return lambda answer: item["marker"] in answer
