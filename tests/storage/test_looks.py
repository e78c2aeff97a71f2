"""Evaluations that count at once on a real server get numbers of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from finetune_trainer.data.looks import read_held_out_prompts
from finetune_trainer.evaluate.looks import count_look


def test_looks_of_several_jobs_are_counted_once_each(s3):
    uri = s3.new_uri()
    names = [str(i % 4) for i in range(8)]
    held_out = read_held_out_prompts([{"prompt": "Which one?", "completion": "this"}])

    def count(name: str) -> int:
        return count_look(s3.open(uri), held_out, name, {}).number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(count, names))
    assert sorted(set(numbers)) == [1, 2, 3, 4]
    assert numbers[:4] == numbers[4:]
    assert count("another") == 5
