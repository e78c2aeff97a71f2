from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.model.kernels.liger import apply_liger, decide_liger


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Install a Liger that knows Llama and records how it is called."""
    calls: list[dict[str, Any]] = []
    package, transformers, table = (
        ModuleType(name)
        for name in (
            "liger_kernel",
            "liger_kernel.transformers",
            "liger_kernel.transformers.monkey_patch",
        )
    )
    table.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None, "mllama": None}  # type: ignore[attr-defined]
    transformers._apply_liger_kernel_to_instance = lambda **kw: calls.append(kw)  # type: ignore[attr-defined]
    for module in (package, transformers, table):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.mark.usefixtures("patched")
def test_auto_uses_liger_on_gpus_where_its_table_knows_the_architecture() -> None:
    assert decide_liger("Auto", "llama", use_gpu=True)
    assert not decide_liger("Auto", "mamba", use_gpu=True)
    assert not decide_liger("Auto", "llama", use_gpu=False)
    assert not decide_liger("Off", "llama", use_gpu=True)


@pytest.mark.usefixtures("patched")
def test_architectures_that_nobody_compared_use_liger_on_request_only() -> None:
    assert not decide_liger("Auto", "mllama", use_gpu=True)
    assert decide_liger("Liger", "mllama", use_gpu=True)


@pytest.mark.usefixtures("patched")
def test_liger_on_an_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="no kernels for mamba: it knows llama, mllama") as caught:
        decide_liger("Liger", "mamba", use_gpu=True)
    assert caught.value.reason == "KernelsUnsupported"


def test_only_layers_are_replaced_so_that_the_loss_in_chunks_stays(
    patched: list[dict[str, Any]],
) -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(model_type="llama"))
    apply_liger(model)
    assert patched == [
        {"model": model, "cross_entropy": False, "fused_linear_cross_entropy": False}
    ]


def test_experts_of_a_mixture_keep_their_own_code(patched: list[dict[str, Any]]) -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(model_type="qwen3_moe"))
    apply_liger(model)
    assert patched[0]["swiglu"] is False
