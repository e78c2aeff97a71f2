"""Asks a loaded version its held-out questions, and has the answers judged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune_trainer.serve.agent.bounds import Refusal
from finetune_trainer.serve.agent.engine import Engine, EngineAway, EngineRefused
from finetune_trainer.serve.agent.fetching import Fetched
from finetune_trainer.serve.verification import (
    TIE,
    Answer,
    Stored,
    Verdict,
    judge,
    read_answer,
)

TOLD_EVERY = 10
"""Answers between two messages of progress."""
NUM_REPEATED = 3
"""Questions that others are asked again after an adapter was loaded."""
NUM_CHANGED = 2
"""Answers of others that have changed without a tie, and so show that the load damaged them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AboutEngine:
    """What is known of the engine.

    Attributes:
        name: ``VLLM`` or ``Transformers``; empty until the engine has told.
        dtype: Type of the base weights; None if nobody tells: then it is that of the training.
        device: ``cpu``, or a kind of GPU; None if nobody tells.
        is_quantized: The base weights, or keys and values, are kept in fewer bits.
    """

    name: str = ""
    version: str = ""
    dtype: str | None = None
    device: str | None = None
    is_quantized: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> AboutEngine:
        """Read the operator's description of an engine; vLLM itself reports only its version."""
        return cls(
            name=environment.get("FINETUNE_ENGINE", ""),
            dtype=environment.get("FINETUNE_ENGINE_DTYPE") or None,
            device=environment.get("FINETUNE_ENGINE_DEVICE") or None,
            is_quantized=bool(environment.get("FINETUNE_ENGINE_QUANTIZED")),
        )

    def with_description(self, wire: Mapping[str, Any]) -> AboutEngine:
        """Return what is known with the engine's answer to ``GET /version`` added."""
        return AboutEngine(
            name=self.name or str(wire.get("engine") or "VLLM"),
            version=str(wire.get("version", "")),
            dtype=wire.get("dtype") or self.dtype,
            device=wire.get("device") or self.device,
            is_quantized=bool(wire.get("quantized", self.is_quantized)),
        )

    def started_with(self, dtype: str) -> AboutEngine:
        """Return the same with the type that its base model was to be loaded in.

        Flags of the operator and words of the engine itself count before that.
        """
        return replace(self, dtype=self.dtype or dtype or None)

    def evaluated(self, fetched: Fetched) -> bool:
        """Whether it computed the stored answers of a version, as far as both say it."""
        name, _, version = fetched.engine.partition(" ")
        recipe = fetched.record.get("recipe") or {}
        dtype = "bfloat16" if recipe.get("bfloat16") else "float32"
        was_cpu = not recipe.get("use_gpu", self.device != "cpu")
        return (
            name.lower() == self.name.lower()
            and version.split()[:1] == self.version.split()[:1]
            and self.is_quantized == (fetched.record.get("quantization") is not None)
            and self.dtype in (None, dtype)
            and (self.device is None or was_cpu == (self.device == "cpu"))
        )


async def verify(
    engine: Engine,
    about: AboutEngine,
    name: str,
    fetched: Fetched,
    known: dict[int, Answer],
    *,
    number: int,
    limit: asyncio.Semaphore,
    tell: Callable[[str], None],
) -> Verdict:
    """Return whether a loaded version answers as evaluated.

    Args:
        engine: The engine.
        about: What is known of it.
        name: Name that the version is loaded under.
        fetched: The version.
        known: Answers that it has given since the engine started, by question; others are added.
        number: Questions to ask at most, the first ones.
        limit: Bounds the questions that are asked at once.
        tell: Is called with messages of progress.

    Raises:
        Refusal: The engine refuses a question.
        EngineAway: The engine does not answer, or has lost the version.
    """
    questions = fetched.questions[:number]

    async def answer(number: int) -> None:
        async with limit:
            known[number] = await ask(engine, name, fetched, questions[number])
        if len(known) % TOLD_EVERY == 0:
            tell(f"{len(known)} of {len(questions)} questions are answered")

    missing = [number for number in range(len(questions)) if number not in known]
    tasks = [asyncio.create_task(answer(number)) for number in missing]
    try:
        await asyncio.gather(*tasks)
    except EngineRefused as error:
        if name not in await engine.list_models():
            raise EngineAway("it has lost the adapter") from error
        message = f"the engine refuses a held-out question: {error}"
        raise Refusal("EngineRefused", message) from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return await asyncio.to_thread(
        judge,
        questions,
        [known[number] for number in range(len(questions))],
        is_same_engine=about.evaluated(fetched),
        metrics=fetched.metrics,
    )


async def ask(engine: Engine, name: str, fetched: Fetched, question: Stored) -> Answer:
    """Return the answer to a held-out question; raises as :meth:`Engine.ask`."""
    reply = await engine.ask(name, question, answer_tokens=fetched.answer_tokens)
    return read_answer(
        question, fetched.cut_to_answer(reply.text), reply.tokens, has_ended=reply.has_ended
    )


async def repeat(
    engine: Engine, name: str, fetched: Fetched, before: Mapping[int, Answer]
) -> dict[int, Answer]:
    """Ask a few questions, and compare with the answers to them before, where there are any.

    Raises:
        Refusal: ``OthersDamaged``: answers of a model have changed.
        EngineAway: The engine does not answer.
    """
    now: dict[int, Answer] = {}
    num_changed = 0
    for number in sorted(before)[:NUM_REPEATED] or range(min(NUM_REPEATED, len(fetched.questions))):
        question, earlier = fetched.questions[number], before.get(number)
        if earlier is not None:
            question = replace(question, tuned=earlier.text, is_cut=False)
        now[number] = found = await ask(engine, name, fetched, question)
        num_changed += earlier is not None and found.gap is not None and found.gap > TIE
    if num_changed >= NUM_CHANGED:
        raise Refusal(
            "OthersDamaged",
            f"since this version was loaded, {name} answers {num_changed} of {len(now)} questions "
            "in another way, so the engine mixes the two up. Serve the version with "
            "serve.dedicated, or with another release of the engine",
        )
    return now
