"""What training took, from what it logged."""

from __future__ import annotations

import json

import pytest

from finetune_trainer.evaluate.report.usage import Usage, duration_text, read_usage, usage_facts

POINTS = [
    {"step": 1, "num_tokens": 1000.0},
    {"step": 2, "num_tokens": 3000.0, "tokens_per_second": 200.0},
    {"step": 2, "eval_loss": 1.0},
    {"step": 3, "num_tokens": 4000.0, "tokens_per_second": 100.0},
    {"step": 3, "train_runtime": 33.0},
    {"step": 3, "peak_memory_bytes": 2**30, "hardware": "NVIDIA L4"},
]


def curve(*points: object) -> str:
    return "".join(json.dumps(point) + "\n" for point in points)


@pytest.mark.parametrize(("was_resumed", "seconds"), [(False, 33.0), (True, 20.0)])
def test_time_is_that_of_all_attempts(was_resumed: bool, seconds: float) -> None:
    usage = read_usage(curve(*POINTS), was_resumed=was_resumed)
    assert usage == Usage(hardware="NVIDIA L4", num_tokens=4000, seconds=seconds, peak_bytes=2**30)


@pytest.mark.parametrize("text", ["", "{torn\n[1]\n", curve({"step": 1, "loss": 2.0})])
def test_what_was_not_logged_is_not_told(text: str) -> None:
    usage = read_usage(text, was_resumed=True)
    assert usage == Usage()
    recipe = {"world_size": 2, "use_gpu": False}
    assert usage_facts(usage, recipe, num_nodes=1) == {"Hardware": "2 x CPU"}


def test_gpu_hours_count_every_rank() -> None:
    usage = Usage(hardware="H100", num_tokens=36_000, seconds=1800, peak_bytes=2**30)
    facts = usage_facts(usage, {"world_size": 8, "use_gpu": True}, num_nodes=2)
    assert facts == {
        "Hardware": "8 x H100 on 2 nodes",
        "Tokens trained on": "36,000",
        "Time of the steps": "30 min 0 s",
        "Tokens a second": "20",
        "GPU hours of the steps": "4.00",
        "Peak memory of a rank": "1.0 GiB",
    }


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_told_as_people_read_them(seconds: float, words: str) -> None:
    assert duration_text(seconds) == words
