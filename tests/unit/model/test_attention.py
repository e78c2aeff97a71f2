"""Which attention is tried, and what is said where an asked one cannot run."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.model.kernels.attention import (
    AttentionSupport,
    explain_missing,
    list_attention,
)
from finetune_trainer.model.kernels.liger import decide_liger

FULL: dict[str, Any] = {"has_gpu": True, "has_flash": True, "is_half_precision": True}


@pytest.mark.parametrize(
    ("asked", "lacking", "expected"),
    [
        ("Auto", {}, ("flash_attention_2", "sdpa", "eager")),
        ("Auto", {"has_gpu": False}, ("sdpa", "eager")),
        ("Auto", {"has_flash": False}, ("sdpa", "eager")),
        ("Auto", {"is_half_precision": False}, ("sdpa", "eager")),
        ("Auto", {"joins_rows": True}, ("flash_attention_2", "sdpa_varlen", "sdpa", "eager")),
        ("Auto", {"joins_rows": True, "has_flash": False}, ("sdpa_varlen", "sdpa", "eager")),
        ("Auto", {"joins_rows": True, "is_half_precision": False}, ("sdpa", "eager")),
        (
            "Auto",
            {"joins_rows": True, "has_flash": False, "varlen_fault": "off"},
            ("sdpa", "eager"),
        ),
        ("Varlen", {}, ("sdpa_varlen",)),
        ("SDPA", {}, ("sdpa",)),
        ("Eager", {"has_gpu": False}, ("eager",)),
        ("Flex", {}, ("flex_attention",)),
    ],
)
def test_the_fastest_that_can_run_is_tried_first(
    asked: str, lacking: dict[str, Any], expected: tuple[str, ...]
) -> None:
    support = AttentionSupport(**{**FULL, **lacking})
    assert list_attention(asked, support) == expected
    assert explain_missing(asked, support) is None


@pytest.mark.parametrize(
    ("asked", "lacking", "words"),
    [
        ("Flash", {"has_gpu": False}, "needs a GPU"),
        ("Flash", {"has_flash": False}, "flash-attn is not installed"),
        ("Flash", {"is_half_precision": False}, "bfloat16"),
        ("Flex", {"has_gpu": False}, "GPUs only"),
        ("Varlen", {"has_gpu": False}, "needs a GPU"),
        ("Varlen", {"is_half_precision": False}, "bfloat16"),
        ("Varlen", {"varlen_fault": "torch's kernel is off by 0.3 here"}, "off by 0.3"),
    ],
)
def test_an_asked_attention_that_cannot_run_is_explained(
    asked: str, lacking: dict[str, Any], words: str
) -> None:
    why = explain_missing(asked, AttentionSupport(**{**FULL, **lacking}))
    assert why is not None
    assert words in why


def test_kernels_are_left_out_on_cpu_and_refused_where_asked_and_missing() -> None:
    assert not decide_liger("Auto", "llama", use_gpu=False)
    assert not decide_liger("Off", "llama", use_gpu=True)
    assert not decide_liger("Auto", "no-such-architecture", use_gpu=True)
    with pytest.raises(UserError, match="no-such-architecture"):
        decide_liger("Liger", "no-such-architecture", use_gpu=True)
