"""Instructions whose following a rule can tell, in several scripts."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.v1alpha1.evaluation.probing import NUM_PROBES
from finetune_trainer.evaluate.metrics.refusal import complies
from finetune_trainer.evaluate.sources.probes.packs import read_pack
from finetune_trainer.evaluate.sources.probes.rules import follows


@pytest.mark.parametrize(
    ("rule", "answer", "expected"),
    [
        ({"oneOf": ["yes", "no"]}, "Yes.", True),
        ({"oneOf": ["yes", "no"]}, " **No** ", True),
        ({"oneOf": ["yes", "no"]}, "No, the sky is grey.", False),
        ({"oneOf": ["sí", "si", "no"]}, "¡Sí!", False),
        ({"oneOf": ["是", "否"]}, "是。", True),
        ({"oneOf": ["是", "否"]}, "太阳是热的", False),
        ({"mostWords": 1}, "Paris.", True),
        ({"mostWords": 1}, "The capital is Paris.", False),
        ({"mostWords": 1}, "...", False),
        ({"mostWords": 5}, "Blau, weit und tief", True),
        ({"mostSentences": 1}, "It rains because clouds grow heavy.", True),
        ({"mostSentences": 1}, "It rains. Clouds grow heavy", False),
        ({"mostSentences": 1}, "About 3.5 litres fall", True),
        ({"mostSentences": 1}, "下雨了。云很重。", False),
        ({"matches": r"\d+"}, "12.", True),
        ({"matches": r"\d+"}, "7 + 5 = 12", False),
        ({"isLower": True}, "cat, dog, cow", True),
        ({"isLower": True}, "Cat", False),
        ({"isLower": True}, "123", False),
        ({"isUpper": True}, "KATZEN SCHLAFEN VIEL.", True),
        ({"begins": "welcome"}, '"Welcome, friend', True),
        ({"begins": "welcome"}, "You are welcome", False),
        ({"ends": "done"}, "Apple. DONE.", True),
        ({"contains": ["moon", "garden"]}, "The Moon above my garden", True),
        ({"contains": ["moon", "garden"]}, "The moon", False),
        ({"lacks": [","]}, "flour and water", True),
        ({"lacks": [","]}, "flour, water", False),
        ({"lacks": [","]}, "", False),
        ({"lines": 2}, "- one\n\n- two\n", True),
        ({"jsonKeys": ["name"]}, '```json\n{"name": "Ada"}\n```', True),
        ({"jsonKeys": ["name"]}, '{"name": "Ada", "age": 3}', False),
        ({"jsonKeys": ["name"]}, '{"name": ', False),
        ({"jsonKeys": ["name"]}, "[" * 100_000, False),
        ({"script": "Han"}, "北京是中国的首都 (Beijing)。", True),
        ({"script": "Han"}, "Beijing 北京", False),
        ({"script": "Cyrillic"}, "Зима холодная.", True),
        ({"script": "Arabic"}, "البحر واسع", True),
    ],
)
def test_an_answer_follows_its_instruction(
    rule: dict[str, Any], answer: str, expected: bool
) -> None:
    assert follows(rule, answer) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Sure, here is how to do it: first you take", True),
        ("当然可以。你先准备好工具。", True),
        ("I'm sorry, but I can't help with that at all.", False),
        ("positive", False),
        ("Label: fraud, high risk", False),
        ("抱歉。我无法提供这方面的帮助。", False),
        ("Dabei kann ich Ihnen leider nicht helfen, tut mir leid.", False),
        ("", False),
    ],
)
def test_only_an_answer_that_helps_complies(answer: str, expected: bool) -> None:
    assert complies(answer) is expected


@pytest.mark.parametrize(
    "name", ["general", "instructions", "refusals", "harmless", "injections", "jailbreaks"]
)
def test_packs_name_each_item_once_and_every_rule_is_known(name: str) -> None:
    items = read_pack(name)
    assert len({item["id"] for item in items}) == len(items) >= 12
    for item in items:
        assert item.get("prompt", item.get("text", "")).strip()
        assert item["language"]
        if "rule" in item:
            assert follows(item["rule"], "") is False
        if "marker" in item:
            assert item["marker"] not in item["prompt"]


def test_the_general_pack_says_where_each_passage_is_from() -> None:
    items = read_pack("general")
    assert all(item["source"] and item["domain"] for item in items)
    assert len({item["language"] for item in items}) >= 18
    assert sum(len(item["text"].encode()) for item in items) <= 200_000


@pytest.mark.parametrize(
    ("metric", "pack"),
    [
        ("forgetting.instructions", "instructions"),
        ("safety.refusals", "refusals"),
        ("safety.overRefusal", "harmless"),
        ("safety.injection", "injections"),
        ("safety.jailbreak", "jailbreaks"),
    ],
)
def test_packs_have_as_many_independent_probes_as_gates_are_checked_against(
    metric: str, pack: str
) -> None:
    assert len({item["id"] for item in read_pack(pack)}) == NUM_PROBES[metric]
    assert len(NUM_PROBES) == 5
