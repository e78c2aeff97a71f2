"""What garak is told, so that it asks models as they were trained."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jinja2 import Environment

from finetune_api.v1alpha1.evaluation.red_teaming import RedTeam
from finetune_trainer.evaluate.sources.red_team.configuration import Asking, make_configuration
from finetune_trainer.model.chat_format import ChatFormat

RED_TEAM = RedTeam(probes=["dan", "lmrc.SlurUsage"], max_prompts=8)
GREEDY = {"temperature": 0.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
"""In the body of each call, where it overrides what a probe sets: promptinject does."""
R1 = "<|User|>?<|Assistant|><think>\n"
QWEN = "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n"
FINAL = "<|channel|>final<|message|>"
CHAT = ChatFormat(template="{{ messages }}", stop_ids=(2, 7), end_id=2)


def told(chat_format: ChatFormat, *, answer_tokens: int = 16, room: int = 4096) -> dict[str, Any]:
    asking = Asking(chat_format=chat_format, answer_tokens=answer_tokens, room=room)
    text = make_configuration(
        RED_TEAM,
        asking,
        probe="lmrc.SlurUsage",
        model="tuned",
        run="tuned-1",
        url="http://127.0.0.1:1/v1/",
    )
    wire: dict[str, Any] = json.loads(text)
    return wire


def generator(chat_format: ChatFormat, **change: Any) -> dict[str, Any]:
    found: dict[str, Any] = told(chat_format, **change)["plugins"]["generators"]["openai"]
    settings: dict[str, Any] = found["OpenAICompatible"]
    return settings


def test_both_sides_are_asked_the_same_prompts_in_the_same_way() -> None:
    wire = told(CHAT)
    assert wire["run"]["spec"] == {"include": ["probes.lmrc.SlurUsage"]}
    assert (wire["run"]["soft_probe_prompt_cap"], wire["run"]["generations"]) == (8, 1)
    assert isinstance(wire["run"]["seed"], int)
    assert wire["reporting"]["report_prefix"] == "tuned-1"
    assert wire["plugins"]["target_name"] == "Assistant", "prompts name it: both sides alike"
    settings = generator(CHAT)
    assert settings["temperature"] == 0
    assert settings["stop"] == [], "garak's default cuts answers at # and ;"
    assert settings["extra_params"] == {
        "extra_body": {"model": "tuned", "stop_token_ids": [2, 7], **GREEDY}
    }
    assert settings["max_tokens"] == 150
    assert "skip_seq_end" not in settings


def thinking(mark: str = "</think>") -> ChatFormat:
    return ChatFormat(template="{{ messages }}", stop_ids=(2,), end_id=2, answer_after=mark)


@pytest.mark.parametrize(
    ("answer_tokens", "room", "most"),
    [(16, 4096, 1174), (900, 4096, 1174), (1500, 4096, 1500), (8192, 4096, 2048), (16, 2048, 1024)],
    ids=str,
)
def test_reasoning_gets_room_and_is_no_part_of_the_answer(
    answer_tokens: int, room: int, most: int
) -> None:
    settings = generator(thinking(), answer_tokens=answer_tokens, room=room)
    assert settings["max_tokens"] == most
    assert (settings["skip_seq_start"], settings["skip_seq_end"]) == ("", "</think")
    body = settings["extra_params"]["extra_body"]
    assert body["skip_special_tokens"] is False
    assert body["max_tokens"] == most, "also where a probe allows fewer, as promptinject does"
    assert "max_tokens" not in generator(CHAT)["extra_params"]["extra_body"]


def cut_as_garak_does(text: str, end: str) -> str:
    """As ``Generator._prune_skip_sequences`` of garak 0.17.1 with an empty start."""
    return re.sub(".*?" + re.escape(end), "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("mark", "prompt", "said", "answer"),
    [
        ("</think>", R1, "Okay, they ask\nfor a label.</think>\n\nneutral", "neutral"),
        ("</think>", R1, "Okay.</think>", ""),
        ("</think>", R1, "Okay, they ask\nfor a label, which may be", None),
        ("</think>", R1, "", None),
        ("</think>", QWEN, "<think>\nOkay.\n</think>\n\nno", "no"),
        ("</think>", QWEN, "<think>\n\n</think>\n\nno", "no"),
        ("</think>", QWEN, "<think>\nOkay, they", None),
        ("</think>", QWEN, "\n<think> a > b", None),
        # A base model that was never taught to reason.
        ("</think>", QWEN, "Once upon a time", "Once upon a time"),
        ("</think>", QWEN + "<think>\n\n</think>\n\n", "no", "no"),
        (FINAL, "<|start|>assistant", f"<|channel|>analysis<|message|>Hm<|end|>{FINAL}no", "no"),
        (FINAL, "<|start|>assistant", "<|channel|>analysis<|message|>Hm, they", None),
        (FINAL, "<|start|>assistant", "no", "no"),
        ("", QWEN, "<think> as it is", "<think> as it is"),
    ],
)
def test_reasoning_without_an_end_is_no_answer(
    mark: str, prompt: str, said: str, answer: str | None
) -> None:
    asking = Asking(chat_format=thinking(mark), answer_tokens=16, prompt=prompt)
    left = cut_as_garak_does(said, asking.cut_after) if asking.cut_after else said
    assert asking.read_answer(left) == answer


def test_a_model_without_a_template_reads_the_texts_as_they_are() -> None:
    plain = ChatFormat(template=None, stop_ids=(0,), end_id=0)
    turns = [{"role": "user", "content": "One {{ x }}"}, {"role": "user", "content": "Two"}]
    asking = Asking(chat_format=plain, answer_tokens=16)
    render = Environment().from_string(asking.template).render
    assert render(messages=turns[:1], add_generation_prompt=True) == "One {{ x }}"
    assert render(messages=turns, add_generation_prompt=True) == "One {{ x }}\n\nTwo"
    assert generator(plain)["extra_params"]["extra_body"]["add_special_tokens"] is True


def test_a_model_with_a_template_is_served_with_that_of_training() -> None:
    assert Asking(chat_format=CHAT, answer_tokens=16).template == CHAT.template
