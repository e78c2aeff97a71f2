"""Ranks that receive their weights from another take no memory for them while they load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import modeling_utils

from finetune_trainer.model.load import load_model
from finetune_trainer.train.ranks.sharding import loading_once

CONFIG = transformers.LlamaConfig(
    vocab_size=32000,
    hidden_size=512,
    intermediate_size=512,
    num_hidden_layers=1,
    num_attention_heads=8,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = transformers.AutoModelForCausalLM.from_config(CONFIG, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    return tmp_path


def anonymous_bytes() -> int:
    """Return the memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rank_that_receives_its_weights_takes_no_memory_for_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    alone = load_model(folder, dtype=dtype)
    # What transformers asks in ranks of FSDP2; the others of a node are not its first.
    monkeypatch.setattr(modeling_utils, "is_fsdp_enabled", lambda: True)
    before = anonymous_bytes()
    with loading_once(is_receiver=True):
        received = load_model(folder, dtype=dtype)
    grown = anonymous_bytes() - before
    shapes = {name: (each.shape, each.dtype) for name, each in received.named_parameters()}
    assert shapes == {name: (each.shape, each.dtype) for name, each in alone.named_parameters()}
    size = sum(each.numel() * each.element_size() for each in alone.parameters())
    assert grown < size / 4
    # What no file holds is there in every rank.
    mine, theirs = (dict(each.named_buffers()) for each in (received, alone))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_first_rank_reads_the_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = load_model(folder, dtype=torch.bfloat16)
    monkeypatch.setattr(modeling_utils, "is_local_dist_rank_0", lambda: True)
    monkeypatch.setattr(modeling_utils, "is_fsdp_enabled", lambda: True)
    with loading_once(is_receiver=False):
        first = load_model(folder, dtype=torch.bfloat16)
    theirs = alone.state_dict()
    assert all(torch.equal(each, theirs[name]) for name, each in first.state_dict().items())


def test_rank_receives_weights_of_a_folder_whose_files_are_read_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers does this on file systems of the Hub, which deadlock on parallel page faults.
    monkeypatch.setattr(modeling_utils, "_is_on_hf_mount", lambda _: True)
    monkeypatch.setattr(modeling_utils, "is_fsdp_enabled", lambda: True)
    with loading_once(is_receiver=True):
        received = load_model(folder, dtype=torch.bfloat16)
    shapes = {name: each.shape for name, each in received.named_parameters()}
    alone = load_model(folder, dtype=torch.bfloat16)
    assert shapes == {name: each.shape for name, each in alone.named_parameters()}
