"""The models of an evaluation answer by what they hold for likely, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.model.pair import ModelPair
from kit.models.generating import generate_answers
from kit.models.tiny_models import make_model
from kit.models.tiny_tokenizer import make_tokenizer

pytestmark = pytest.mark.slow  # it needs torch

PROMPTS = [[65, 66, 67, 68], [72, 101, 108, 108, 111]]


def answers(folder: Path, adapter: Path) -> list[list[str]]:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    pair = ModelPair(folder, adapter, dtype=torch.float32)
    said = []
    for name in ("base", "tuned"):
        with pair.open(name) as model:
            texts = generate_answers(model, encoder, PROMPTS, range(2), max_new_tokens=12)
            said.append(list(texts.values()))
    return said


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter"])
def test_settings_that_ship_with_a_model_change_no_answer(tmp_path: Path, adapted: bool) -> None:
    folder, adapter = make_model(tmp_path / "base"), tmp_path / "tuned"
    if adapted:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder)
        get_peft_model(model, LoraConfig(target_modules="all-linear")).save_pretrained(adapter)
    else:
        make_model(adapter, seed=1)
    plain = answers(folder, adapter)
    for place in (folder, adapter):
        path = place / "generation_config.json"
        settings = json.loads(path.read_text()) if path.exists() else {}
        # As Qwen2.5 has them, only stronger.
        settings |= {"repetition_penalty": 9.0, "do_sample": True, "top_k": 20, "temperature": 0.7}
        path.write_text(json.dumps(settings))
    assert answers(folder, adapter) == plain
