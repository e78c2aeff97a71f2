"""Rows are flattened only where the model keeps their examples apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset

from finetune_api.protocol.trainer import ResolvedJob, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import UserError
from finetune_trainer.model.adapters import build_lora_config
from finetune_trainer.model.hardware import Hardware
from finetune_trainer.model.load import load_model, read_model_architecture
from finetune_trainer.train.ranks.isolation import IsolationProbe, judge_isolation
from finetune_trainer.train.ranks.sft import build_config, build_trainer
from finetune_trainer.train.recipe.recipe import DataShape, decide_recipe
from kit.models.base_model import ensure_model
from kit.models.tiny_tokenizer import make_tokenizer

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS: dict[str, Any] = {
    "llama": lambda **kw: transformers.LlamaConfig(
        **SIZES, **kw, intermediate_size=64, num_key_value_heads=2
    ),
    "mixtral": lambda **kw: transformers.MixtralConfig(
        **SIZES, **kw, intermediate_size=64, num_key_value_heads=2, num_local_experts=4
    ),
    "opt": lambda **kw: transformers.OPTConfig(
        **SIZES, **kw, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64
    ),
    "bloom": lambda **kw: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **kw),
    "lfm2": lambda **kw: transformers.Lfm2Config(
        **SIZES,
        **kw,
        intermediate_size=64,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
    ),
}


def make_job(packing: str) -> ResolvedJob:
    job = FineTuneJob.from_wire(
        {
            "metadata": {"name": "isolation"},
            "spec": {
                "model": {"uri": "file:///model"},
                "dataset": {"sources": [{"uri": "file:///rows"}]},
                "method": {
                    "packing": packing,
                    "adapter": {"rank": 2, "alpha": 4, "targetModules": ["all-linear"]},
                },
                "hyperparameters": {
                    "maxSteps": 1,
                    "globalBatchSize": 4,
                    "maxSequenceLength": 64,
                    "precision": "Float32",
                },
                "output": {"uri": "file:///out"},
                "resources": {"gpusPerNode": 0},
            },
        }
    )
    return resolve_job(job, namespace="default", uid="isolation")


def train_one_step(family: str, folder: Path, packing: str = "Auto") -> tuple[Any, list[str]]:
    """Train one step as a rank does; returns the trainer and what it told."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = CONFIGS[family](vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    model = load_model(folder / "model", dtype=torch.float32)
    rows = [[3 + (i * 7 + j) % 90 for j in range(9 + i)] for i in range(8)]
    dataset = Dataset.from_dict({"input_ids": rows, "labels": rows})
    job = make_job(packing)
    lengths = [len(ids) for ids in rows]
    recipe = decide_recipe(
        job,
        DataShape(
            num_rows=8, num_tokens=sum(lengths), mean_tokens=13.0, longest_tokens=max(lengths)
        ),
        read_model_architecture(folder / "model"),
        Hardware(num_gpus=0, memory_bytes=2**33, supports_bfloat16=False, num_cpus=1),
        use_gpu=False,
    )
    told: list[str] = []
    probe = IsolationProbe(told.append)
    trainer = build_trainer(
        job=job,
        config=build_config(job, recipe, folder / "out", has_validation=False),
        model=model,
        tokenizer=tokenizer,
        lora=build_lora_config(job.spec.method.adapter, model),
        train=dataset,
        validation=dataset.select([]),
        callbacks=[probe],
    )
    probe.attach(trainer)
    trainer.train()
    return trainer, told


@pytest.mark.filterwarnings("ignore")  # libraries, on models smaller than they expect
@pytest.mark.parametrize(
    ("family", "is_flattened"),
    [("llama", True), ("mixtral", True), ("opt", False), ("bloom", False), ("lfm2", False)],
)
def test_rows_stay_flattened_only_where_examples_do_not_meet(
    family: str, is_flattened: bool, tmp_path: Path
) -> None:
    trainer, told = train_one_step(family, tmp_path)
    assert trainer.data_collator.padding_free is is_flattened
    batch = trainer.data_collator([{"input_ids": [5, 6], "labels": [5, 6]}] * 2)
    assert ("attention_mask" in batch) is not is_flattened
    assert bool(told) is not is_flattened
    if told:
        assert "micro batches are padded" in told[0]
        assert family in told[0]


@pytest.mark.filterwarnings("ignore")
def test_packing_is_refused_where_examples_would_meet(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train_one_step("opt", tmp_path, packing="On")
    assert caught.value.reason == "PackingNotExact"
    assert "method.packing On" in caught.value.message


@pytest.mark.filterwarnings("ignore")
def test_packing_goes_on_where_examples_do_not_meet(tmp_path: Path) -> None:
    trainer, told = train_one_step("llama", tmp_path, packing="On")
    assert trainer.state.global_step == 1
    assert told == []


@pytest.mark.filterwarnings("ignore")
def test_real_model_on_two_kernels_keeps_examples_apart() -> None:
    folder = ensure_model()
    model = load_model(folder, dtype=torch.bfloat16).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [
        "What is the colour of the sea at night when nobody looks at it, and why is it so?",
        "Write a headline about a market that fell after a long week of news and of rumours.",
    ]
    ids = torch.tensor([token for text in texts for token in tokenizer(text)["input_ids"][:16]])
    begins_anew = torch.arange(16).repeat(2)

    def logits(tokens: torch.Tensor, positions: torch.Tensor, *, is_fast: bool) -> torch.Tensor:
        with torch.no_grad(), torch.backends.mkldnn.flags(enabled=is_fast):
            output = model(input_ids=tokens[None], position_ids=positions[None], use_cache=False)
        return output.logits[0, -16:].float()

    alone = logits(ids[16:], begins_anew[16:], is_fast=False)
    apart = logits(ids, begins_anew, is_fast=True)
    leaking = logits(ids, torch.arange(32), is_fast=True)
    assert judge_isolation(apart, apart, alone, is_bfloat16=True).is_exact
    assert not judge_isolation(leaking, leaking, alone, is_bfloat16=True).is_exact


def test_a_few_logits_that_round_far_are_no_leak() -> None:
    """As two kernels of bfloat16 differ: by a fortieth of the spread, and far more at one logit."""
    drawn = torch.Generator().manual_seed(1)
    alone = torch.randn(16, 4096, generator=drawn)
    flattened = alone + torch.randn(16, 4096, generator=drawn) / 40
    assert (flattened - alone).abs().max() > 0.1
    assert judge_isolation(flattened, flattened, alone, is_bfloat16=True).is_exact


@pytest.mark.parametrize(
    ("shift", "influence", "is_bfloat16", "is_exact"),
    [
        (0.0, 0.0, False, True),
        (1e-6, 1e-6, False, True),
        (0.0, 1e-3, False, False),  # a leak as small as a short convolution's at random weights
        (1e-2, 0.0, False, False),  # positions go on from the neighbour's
        (2e-2, 0.0, True, True),
        (0.0, 1e-6, True, False),
        (0.5, 0.0, True, False),
        (float("nan"), 0.0, False, False),
    ],
)
def test_what_counts_as_apart(
    shift: float, influence: float, is_bfloat16: bool, is_exact: bool
) -> None:
    alone = torch.randn(6, 11, generator=torch.Generator().manual_seed(1))
    alone = alone / alone.std()
    flattened = alone + shift
    found = judge_isolation(flattened, flattened + influence, alone, is_bfloat16=is_bfloat16)
    assert found.is_exact is is_exact
    assert bool(found.reason) is not is_exact
