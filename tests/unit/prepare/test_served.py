"""What no server beside the evaluation can be asked is refused before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api.protocol.trainer import resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import UserError
from finetune_trainer.prepare.refusals.served import require_adapter
from kit.cases.spec_cases import changed, minimal_job

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64,
         "intermediate_size": 64, "num_local_experts": 4}  # fmt: skip


def ask(folder: Path, model_type: str, **change: object) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **SHAPE}))
    body = changed(minimal_job(), {"spec.evaluation.engine": "VLLM", **change})
    require_adapter(resolve_job(FineTuneJob.from_wire(body), namespace="n", uid="u"), folder)


def test_an_adapter_on_experts_is_not_asked_of_a_server(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"all-linear.*\(mixtral\).*Transformers.*q_proj"
    ) as refused:
        ask(tmp_path, "mixtral", **{"spec.method.adapter.targetModules": ["all-linear"]})
    assert refused.value.reason == "EngineUnsuitable"
    change = {"targetModules": ["all-linear"]}
    ask(
        tmp_path,
        "mixtral",
        **{"spec.evaluation.engine": "Transformers", "spec.method.adapter": change},
    )
    ask(tmp_path, "mixtral")
    ask(tmp_path, "mixtral", **{"spec.method.adapter.targetModules": ["q_proj"]})
    ask(tmp_path, "gpt_oss")
    ask(tmp_path, "llama")


@pytest.mark.parametrize("engine", ["VLLM", "Transformers"])
def test_names_that_mean_experts_are_refused_before_a_gpu_is_held(
    tmp_path: Path, engine: str
) -> None:
    names = {"targetModules": ["gate_proj", "o_proj"]}
    change = {"spec.evaluation.engine": engine, "spec.method.adapter": names}
    with pytest.raises(UserError, match=r"takes gate_proj for the experts") as refused:
        ask(tmp_path, "deepseek_v3", **change)
    assert refused.value.reason == "InvalidTargetModules"
    ask(tmp_path, "qwen2_moe", **change)
    ask(tmp_path, "llama", **change)
