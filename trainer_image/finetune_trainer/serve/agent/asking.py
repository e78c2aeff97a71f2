"""Asks a loaded version its held-out questions, and has the answers judged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune_trainer.serve.agent.bounds import Refusal
from finetune_trainer.serve.agent.engine import Engine, EngineAway, EngineRefused
from finetune_trainer.serve.agent.fetching import Fetched
from finetune_trainer.serve.verification import Verdict, judge

TOLD_EVERY = 10
"""Answers between two messages of progress."""


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
    *,
    limit: asyncio.Semaphore,
    tell: Callable[[str], None],
) -> Verdict:
    """Return whether a loaded version answers as evaluated.

    Args:
        engine: The engine.
        about: What is known of it.
        name: Name that the version is loaded under.
        fetched: The version.
        limit: Bounds the questions that are asked at once.
        tell: Is called with messages of progress.

    Raises:
        Refusal: The engine refuses a question.
        EngineAway: The engine does not answer, or has lost the version.
    """
    questions, answered = fetched.questions, 0

    async def answer(number: int) -> str:
        nonlocal answered
        async with limit:
            text = await engine.ask(name, questions[number], answer_tokens=fetched.answer_tokens)
        answered += 1
        if answered % TOLD_EVERY == 0:
            tell(f"{answered} of {len(questions)} questions are answered")
        return fetched.cut_to_answer(text)

    tasks = [asyncio.create_task(answer(number)) for number in range(len(questions))]
    try:
        answers = await asyncio.gather(*tasks)
    except EngineRefused as error:
        if name not in await engine.list_models():
            raise EngineAway("it has lost the adapter") from error
        message = f"the engine refuses a held-out question: {error}"
        raise Refusal("EngineRefused", message) from error
    finally:
        for task in tasks:
            task.cancel()
    return await asyncio.to_thread(
        judge,
        questions,
        answers,
        is_same_engine=about.evaluated(fetched),
        metrics=fetched.metrics,
    )
