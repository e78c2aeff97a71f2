"""Answers that are kept come back as they were, and never as answers to something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune_api.protocol.trainer import Environment, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import StorageError
from finetune_trainer.evaluate.asking import Keeping, gather_facts
from finetune_trainer.evaluate.inference.answers import (
    SIDES,
    Asker,
    KeptAnswers,
    Said,
    combine,
    count,
    digest_of,
)
from finetune_trainer.evaluate.inference.keeping import AnswerStore, drop_answers
from finetune_trainer.evaluate.inference.reading import compute_in_halves
from finetune_trainer.evaluate.inference.worker import WorkerPlan
from finetune_trainer.evaluate.inference.workers import read_said
from finetune_trainer.evaluate.tokenized import TokenizedQuestions, write_encoded
from finetune_trainer.model.encoding import ChatTokenizer, TokenizedExample
from finetune_trainer.storage.local import FileStore
from kit.cases.spec_cases import changed, minimal_job
from kit.models.tiny_tokenizer import make_tokenizer

NOTHING = {side: Said(likelihoods={}, texts={}) for side in SIDES}
SAID = {
    **NOTHING,
    "base": Said(likelihoods={0: (0.1 + 0.2, 3), 7: (1 / 3, 1)}, texts={2: "ja ✓"}),
    "prompted": Said(likelihoods={}, texts={1: "no"}, chosen={1: 4}),
    "tunedProbes": Said(likelihoods={}, texts={3: "I can't help with that"}),
}


def keeper(folder: Path, digest: str = "d" * 64) -> tuple[KeptAnswers, list[str]]:
    told: list[str] = []
    store = FileStore(folder)
    kept = AnswerStore(store=store, direct=store, prefix="runs/a")
    return KeptAnswers(kept, digest, told.append), told


def test_answers_come_back_to_the_last_digit(tmp_path: Path) -> None:
    kept, told = keeper(tmp_path)
    assert kept.read() == NOTHING
    kept.write(NOTHING)
    kept.write(SAID)
    assert kept.read() == SAID
    assert (count(SAID), told) == (6, [])
    drop_answers(FileStore(tmp_path), "runs/a")
    assert kept.read() == NOTHING


def test_answers_to_something_else_are_not_taken(tmp_path: Path) -> None:
    kept, _ = keeper(tmp_path)
    kept.write(SAID)
    other, told = keeper(tmp_path, digest="e" * 64)
    assert (other.read(), told) == (NOTHING, [])
    # The same beginning is the same name, and still not the same digest.
    twin, told = keeper(tmp_path, digest="d" * 32 + "e" * 32)
    assert (twin.read(), len(told)) == (NOTHING, 1)


@pytest.mark.parametrize("damage", [b"", b"{}", b"{}\n{}"])
def test_damaged_answers_are_asked_again(tmp_path: Path, damage: bytes) -> None:
    kept, told = keeper(tmp_path)
    kept.write(SAID)
    path = tmp_path / kept.key
    path.write_bytes(damage or path.read_bytes()[:-1])
    assert kept.read() == NOTHING
    assert told == ["the answers that were kept are damaged; all questions are asked again"]


def test_a_store_that_fails_is_told_and_hides_no_other_failure(tmp_path: Path) -> None:
    kept, _ = keeper(tmp_path)
    (tmp_path / "runs").write_text("")  # a file where a folder should be
    assert kept.try_to_write(SAID)
    with pytest.raises(StorageError):
        kept.write(SAID)


def encoded(*, answer_tokens: int = 9, first: int = 6) -> TokenizedQuestions:
    return TokenizedQuestions(
        examples=[
            TokenizedExample(input_ids=[first, n], spans=((1, 2),), num_cut=0) for n in range(5)
        ],
        owners=np.array([0, 0, 1, 2, 3]),
        prompts=[[7, 7], [7], [8]],
        answer_tokens=answer_tokens,
    )


def test_whatever_answers_depend_on_changes_their_name(tmp_path: Path) -> None:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    digests = set()
    for number, (questions, facts) in enumerate(
        [
            (encoded(), {"adapter": "a", "bfloat16": True}),
            (encoded(), {"adapter": "b", "bfloat16": True}),
            (encoded(), {"adapter": "a", "bfloat16": False}),
            (encoded(answer_tokens=8), {"adapter": "a", "bfloat16": True}),
            (encoded(first=8), {"adapter": "a", "bfloat16": True}),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_encoded(folder, encoder, questions)
        digests.add(digest_of(folder, facts))
        assert digest_of(folder, facts) in digests
    assert len(digests) == 5


def test_a_line_that_was_not_finished_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "said-0.jsonl").write_text(
        '{"base": {"likelihoods": {"0": [0.5, 2]}, "texts": {}}}\n'
        '{"tuned": {"likelihoods": {}, "texts": {"1": "yes"}}}\n{"tuned": {"likel'
    )
    (tmp_path / "said-1.jsonl").write_text('{"base": {"likelihoods": {}, "texts": {"0": "no"}}}\n')
    assert combine([NOTHING, read_said(tmp_path)]) == {
        **NOTHING,
        "base": Said(likelihoods={0: (0.5, 2)}, texts={0: "no"}),
        "tuned": Said(likelihoods={}, texts={1: "yes"}),
    }


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_what_was_answered_before_is_not_asked_again(num_workers: int) -> None:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)

    def batches(before: Said) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        shares = [
            Asker(encoder, encoded(), batch_size=2, rank=rank, num_workers=num_workers).share(
                before
            )
            for rank in range(num_workers)
        ]
        rows = sorted(tuple(batch) for share in shares for batch in share.rows)
        return rows, sorted(tuple(batch) for share in shares for batch in share.asks)

    rows, asks = batches(Said(likelihoods={}, texts={}))
    assert (rows, asks) == ([(0, 1, 2, 3, 4)], [(0, 1), (2,)])
    # A batch of which one answer is missing is asked whole: alone its rows would be padded less.
    half = Said(likelihoods=dict.fromkeys(range(4), (0.0, 1)), texts={0: "", 2: ""})
    assert batches(half) == (rows, [(0, 1)])
    whole = Said(likelihoods=dict.fromkeys(range(5), (0.0, 1)), texts=dict.fromkeys(range(3), ""))
    assert batches(whole) == ([], [])


def test_references_that_continue_a_prompt_are_asked_for_with_it() -> None:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    asker = Asker(encoder, encoded(first=8), batch_size=2)
    nothing = asker.share(Said(likelihoods={}, texts={}))
    # Of five references behind one prompt the first is read together with it.
    assert (list(nothing.rows), list(map(list, nothing.asks))) == ([[1, 2, 3, 4]], [[0, 1], [2]])
    answered = Said(likelihoods=dict.fromkeys(range(1, 5), (0.0, 1)), texts={2: ""})
    assert list(map(list, asker.share(answered).asks)) == [[0, 1], [2]]
    answered.likelihoods[0] = (0.0, 1)
    assert list(map(list, asker.share(answered).asks)) == [[0, 1]]


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_asked_in_halves() -> None:
    tried: list[Sequence[int]] = []

    def ask(batch: Sequence[int]) -> Said:
        tried.append(batch)
        if len(batch) > 2:
            raise MemoryError
        return Said(likelihoods={}, texts={i: str(i) for i in batch})

    said = list(compute_in_halves(ask, [5, 3, 9, 1, 7]))
    assert [sorted(part.texts) for part in said] == [[3, 5], [9], [1, 7]]
    assert len(tried) == 5
    with pytest.raises(MemoryError):
        list(compute_in_halves(lambda _batch: ask([1, 2, 3]), [4]))


def test_answers_of_another_build_or_another_kind_of_gpu_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = changed(minimal_job(), {})
    job = resolve_job(FineTuneJob.from_wire(body), namespace="n", uid="u")
    store = FileStore(tmp_path)
    keeping = Keeping(store=store, direct=store, prefix="runs/a", facts={"adapter": "a"})
    plan = WorkerPlan(
        job="",
        control_dir="",
        base_dir="",
        tuned_dir="",
        sides=[],
        bfloat16=True,
        quantize=False,
        num_workers=1,
        gpus_per_worker=1,
        gpu_bytes=85_000_000_000,
        gpu_kind="NVIDIA H100 80GB HBM3",
    )
    monkeypatch.setenv(Environment.IMAGE, "trainer:1")
    facts = gather_facts(job, plan, keeping)
    assert gather_facts(job, plan, keeping) == facts
    assert gather_facts(job, replace(plan, gpu_kind="NVIDIA A100-SXM4-80GB"), keeping) != facts
    # As many processes as the pod has GPUs make the same answers.
    assert gather_facts(job, replace(plan, num_workers=2), keeping) == facts
    monkeypatch.setenv(Environment.IMAGE, "trainer:2")
    assert gather_facts(job, plan, keeping) != facts
