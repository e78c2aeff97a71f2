"""Preferences as tokens: the prompt is shared, nothing of an answer is lost, and order is fixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune_trainer.errors import DataError
from finetune_trainer.evaluate.comparison import count_wins
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.train.ranks.preference import Preferred, encode_preferences
from kit.models.tiny_tokenizer import make_tokenizer

pytestmark = pytest.mark.slow  # it needs torch

TOKENIZER = make_tokenizer()
ROW = {
    "prompt": [{"role": "user", "content": "Hi?"}],
    "completion": [{"role": "assistant", "content": "Yes."}],
    "rejected": [{"role": "assistant", "content": "No, never."}],
}


def encode(rows: list[dict[str, Any]], objective: str, **settings: Any) -> list[Preferred]:
    encoder = ChatTokenizer(
        TOKENIZER, loss="Completion", max_tokens=settings.pop("max_tokens", 256)
    )
    values = {"side": "training", "seed": 1, **settings}
    return encode_preferences(encoder, rows, objective=objective, **values)


def text(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=True))


def test_pair_shares_its_prompt_and_both_answers_end() -> None:
    (example,) = encode([ROW], "DPO")
    assert example.other_ids is not None
    assert text(example.prompt_ids).rstrip().endswith("assistant")
    assert (text(example.answer_ids), text(example.other_ids)) == ("Yes.", "No, never.")
    assert example.answer_ids[-1] == example.other_ids[-1] == TOKENIZER.eos_token_id
    assert len(example.input_ids) == 2 * len(example.prompt_ids) + len(
        [*example.answer_ids, *example.other_ids]
    )


def test_kto_takes_pairs_as_two_verdicts_in_an_order_of_the_seed() -> None:
    verdict = {"prompt": ROW["prompt"], "completion": ROW["completion"], "label": False}
    rows = [ROW, verdict, ROW, verdict]
    examples = encode(rows, "KTO")
    found = sorted((text(example.answer_ids), example.is_wanted) for example in examples)
    assert found == sorted(2 * [("Yes.", True), ("No, never.", False), ("Yes.", False)])
    assert examples == encode(rows, "KTO")
    assert any(examples != encode(rows, "KTO", seed=seed) for seed in range(2, 9))


def test_pair_whose_answers_are_cut_away_is_left_out() -> None:
    long = {**ROW, "prompt": [{"role": "user", "content": "Hi? " * 50}]}
    assert len(encode([ROW, long], "DPO", max_tokens=60)) == 1
    with pytest.raises(DataError) as caught:
        encode([long], "DPO", max_tokens=60)
    assert caught.value.reason == "AllRowsTooLong"


def test_likelier_answer_wins_by_its_mean_and_a_draw_counts_half() -> None:
    chosen = (np.array([2.0, 9.0, 4.0]), np.array([1.0, 9.0, 2.0]))
    rejected = (np.array([3.0, 2.0, 2.0]), np.array([1.0, 1.0, 1.0]))
    assert count_wins(chosen, rejected).tolist() == [1, 1, 0.5]
