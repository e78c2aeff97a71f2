"""What garak is told, so that it asks models as they were trained."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2 import Environment

from finetune_api.v1alpha1.red_teaming import RedTeam
from finetune_trainer.evaluate.redteam.configuration import Asking, make_configuration
from finetune_trainer.model.chat_format import ChatFormat

RED_TEAM = RedTeam(probes=["dan", "lmrc.SlurUsage"], max_prompts=8)
CHAT = ChatFormat(template="{{ messages }}", stop_ids=(2, 7), end_id=2)


def told(chat_format: ChatFormat, *, answer_tokens: int = 16) -> dict[str, Any]:
    asking = Asking(chat_format=chat_format, answer_tokens=answer_tokens)
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
    assert settings["extra_params"] == {"extra_body": {"model": "tuned", "stop_token_ids": [2, 7]}}
    assert settings["max_tokens"] == 150
    assert "skip_seq_end" not in settings


@pytest.mark.parametrize(("answer_tokens", "most"), [(16, 150), (900, 900), (8192, 2048)], ids=str)
def test_reasoning_gets_room_and_is_no_part_of_the_answer(answer_tokens: int, most: int) -> None:
    thinking = ChatFormat(
        template="{{ messages }}", stop_ids=(2,), end_id=2, answer_after="</think>"
    )
    settings = generator(thinking, answer_tokens=answer_tokens)
    assert settings["max_tokens"] == most
    assert (settings["skip_seq_start"], settings["skip_seq_end"]) == ("", "</think>")
    assert settings["extra_params"]["extra_body"]["skip_special_tokens"] is False


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
