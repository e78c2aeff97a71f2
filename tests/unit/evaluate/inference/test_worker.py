"""A worker asks model by model, and a version that cannot be asked stops no other variant."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.inference.answers import Asker, Said
from finetune_trainer.evaluate.inference.engine import Engine, Generation, Likelihood, Prompt
from finetune_trainer.evaluate.inference.worker import PROBLEM_NAME, WorkerPlan, ask_all
from finetune_trainer.evaluate.inference.workers import read_said
from finetune_trainer.evaluate.tokenized import TokenizedQuestions
from finetune_trainer.model.encoding import ChatTokenizer, TokenizedExample
from kit.models.tiny_tokenizer import make_tokenizer

SIDES = ["base", "prompted", "baseProbes", "tuned", "tunedProbes", "published"]


class Echo:
    """An engine that answers with the prompt."""

    def generate(
        self, prompts: Sequence[Prompt], *, stop_ids: Sequence[int], num_shared: int = 0
    ) -> Iterator[dict[int, Generation]]:
        yield {
            at: Generation(token_ids=list(prompt.token_ids), seconds=0.0)
            for at, prompt in enumerate(prompts)
        }

    def score(
        self, examples: Sequence[TokenizedExample], *, num_shared: int = 0
    ) -> Iterator[dict[int, Likelihood]]:
        yield {at: Likelihood(1.0, len(each.input_ids)) for at, each in enumerate(examples)}


def plan_of(folder: Path) -> WorkerPlan:
    return WorkerPlan(
        job="",
        control_dir=str(folder),
        base_dir="",
        tuned_dir="",
        sides=SIDES,
        bfloat16=True,
        quantize=False,
        num_workers=1,
        gpus_per_worker=0,
        gpu_bytes=0,
    )


@pytest.mark.parametrize("reason", ["", "PublishedUnusable", "ModelTooLarge"])
def test_a_model_is_gone_before_the_next_and_only_a_published_version_may_fail(
    reason: str, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    encoder = ChatTokenizer(tokenizer, max_tokens=64)
    encoded = TokenizedQuestions(
        examples=[TokenizedExample(input_ids=[7, 8], spans=((1, 2),), num_cut=0)],
        owners=np.array([0]),
        prompts=[tokenizer(text)["input_ids"] for text in ("AB", "C")],
        answer_tokens=4,
    )
    askers = {side: Asker(encoder, encoded, batch_size=None) for side in SIDES}
    shares = {side: asker.share(Said()) for side, asker in askers.items()}
    opened: list[tuple[str, weakref.ref[Engine]]] = []

    @contextmanager
    def open_engine(name: str) -> Iterator[Engine]:
        assert [before for before, engine in opened if engine() is not None] == []
        if name == "published" and reason:
            raise UserError(reason, "its weights do not fit")
        engine = Echo()
        opened.append((name, weakref.ref(engine)))
        yield engine

    if reason == "ModelTooLarge":
        with pytest.raises(UserError, match="do not fit"):
            ask_all(open_engine, askers, shares, plan_of(tmp_path), 0)
        return
    ask_all(open_engine, askers, shares, plan_of(tmp_path), 0)
    said = read_said(tmp_path)
    answered = [side for side in SIDES if said[side].texts == {0: "AB", 1: "C"}]
    assert answered == [side for side in SIDES if side != "published" or not reason]
    assert [name for name, _ in opened] == ["base", "tuned", "published"][: 2 if reason else 3]
    assert (tmp_path / "done-0").stat().st_size == 3 * len(answered)
    problem = tmp_path / PROBLEM_NAME
    assert (problem.read_text() if problem.exists() else "") == (
        reason and "its weights do not fit"
    )
