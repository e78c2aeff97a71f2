from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from finetune_trainer.model.kernels.lora import FusedLinear, fuse_lora

pytestmark = pytest.mark.slow  # it needs torch

SIZES = (24, 40)
ULP = 2.0**-7
"""Largest step of bfloat16 between neighbours, as a share of the number."""


def adapt(
    *,
    fused: bool,
    weights: Any = torch.float64,
    adapter: Any = None,
    bias: bool = True,
    **more: Any,
) -> Any:
    """Two layers with adapters that change their answers."""
    torch.manual_seed(0)
    first, second = nn.Linear(*SIZES, bias=bias), nn.Linear(*reversed(SIZES), bias=bias)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["0", "1"], **more)
    model = get_peft_model(nn.Sequential(first, second).to(weights), config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape).mul(0.2).to(adapter or weights)
    if fused:
        assert fuse_lora(model) == 2
    return model.train()


def make_inputs(kind: torch.dtype = torch.float64, *, learns: bool = True) -> torch.Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, SIZES[0], generator=noise).to(kind).requires_grad_(learns)


def learn(model: Any, x: torch.Tensor, *, casts: bool = False) -> list[torch.Tensor]:
    """Return the answer, and the gradients of what has one."""
    with torch.autocast("cpu", torch.bfloat16, enabled=casts):
        answer = model(x)
    answer.square().sum().backward()
    learned = [x, *model.parameters()]
    return [answer.detach(), *(each.grad for each in learned if each.grad is not None)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learns", [True, False])
def test_answers_and_gradients_are_those_of_peft(bias: bool, learns: bool) -> None:
    plain = learn(adapt(fused=False, bias=bias), make_inputs(learns=learns))
    fused = learn(adapt(fused=True, bias=bias), make_inputs(learns=learns))
    assert len(plain) == len(fused) == 5 + learns
    for ours, theirs in zip(fused, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 24), (2, 0, 24), (24,), (3, 24)])
def test_any_number_of_rows_is_answered_and_may_be_changed_in_place(shape: tuple[int, ...]) -> None:
    found = []
    for fused in (True, False):
        x = torch.ones(shape, dtype=torch.float64, requires_grad=True)
        answer = adapt(fused=fused).base_model.model[0](x)
        answer.clamp_(min=-0.5, max=0.5)  # as OLMo does
        answer.sum().backward()
        found.append((answer.detach(), x.grad))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16])
def test_narrow_values_are_no_further_from_exact_ones_than_those_of_peft(adapter: Any) -> None:
    """Under autocast, as ranks of DDP compute, and in one type, as those of FSDP2 do."""
    casts = adapter == torch.float32

    def measure(*, fused: bool) -> list[torch.Tensor]:
        model = adapt(fused=fused, weights=torch.bfloat16, adapter=adapter)
        return learn(model, make_inputs(torch.bfloat16), casts=casts)

    narrow = adapt(fused=False, weights=torch.bfloat16, adapter=adapter)
    exact = learn(narrow.double(), make_inputs(torch.bfloat16).detach().double().requires_grad_())
    found = zip(measure(fused=True), measure(fused=False), exact, strict=True)
    for index, (ours, theirs, right) in enumerate(found):
        assert ours.dtype == theirs.dtype
        off, allowed = (float((each.double() - right).norm()) for each in (ours, theirs))
        assert off <= 1.1 * allowed, index


def test_a_narrow_answer_is_within_one_step_of_the_sum() -> None:
    model = adapt(fused=True, weights=torch.bfloat16)
    layer, x = model.base_model.model[0], make_inputs(torch.bfloat16)
    inner, base = x @ layer.lora_A.default.weight.t(), layer.base_layer(x)
    total = base.double() + 3 * inner.double() @ layer.lora_B.default.weight.double().t()
    torch.testing.assert_close(layer(x).double(), total, rtol=ULP, atol=1e-6)


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators, without those that only look at values in another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run."""
        if not func.is_view:
            self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_products_also_scale_and_add() -> None:
    counted = []
    for fused in (False, True):
        model, x = adapt(fused=fused, bias=False).base_model.model[0], make_inputs()
        gradient = torch.ones(2, 5, SIZES[1], dtype=x.dtype)
        with Counting() as counting:
            model(x).backward(gradient)
        counted.append(counting.found)
    plain, short = counted
    assert (plain["mm"], plain["mul"] + plain["add"]) == (8, 4)
    assert short == {"mm": 4, "addmm_": 2, "addmm": 2}


@pytest.mark.parametrize(
    "settings", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}]
)
def test_other_adapters_keep_the_computation_of_peft(settings: dict[str, Any]) -> None:
    assert fuse_lora(adapt(fused=False, **settings)) == 0


def test_an_adapter_that_is_off_merged_or_not_alone_is_computed_by_peft() -> None:
    plain, fused = adapt(fused=False), adapt(fused=True)
    x, states = make_inputs(), []
    for model in (plain, fused):
        answers = []
        with model.disable_adapter():
            answers.append(model(x))
        model.merge_adapter()
        answers.append(model(x))
        model.unmerge_adapter()
        model.add_adapter("other", LoraConfig(r=2, init_lora_weights=False, target_modules=["0"]))
        for weight in (p for name, p in model.named_parameters() if "other" in name):
            weight.data.fill_(0.1)
        model.base_model.set_adapter(["default", "other"])
        answers.append(model(x))
        model.set_adapter("other")
        answers.append(model(x))
        states.append(answers)
    for ours, theirs in zip(*states[::-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_base_that_trains_gets_its_gradients() -> None:
    model, x = adapt(fused=True), make_inputs()
    model.base_model.model[0].base_layer.weight.requires_grad = True
    model(x).sum().backward()
    assert model.base_model.model[0].base_layer.weight.grad is not None


def test_values_of_several_types_are_computed_by_peft() -> None:
    model = adapt(fused=True, weights=torch.bfloat16, adapter=torch.float32)
    assert model(make_inputs(torch.bfloat16)).dtype == torch.bfloat16


def test_recomputed_activations_give_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    whole = learn(adapt(fused=True), make_inputs())
    model = adapt(fused=True)
    model.forward = lambda x: checkpoint(model.base_model.model, x, use_reentrant=False)
    assert all(map(torch.equal, learn(model, make_inputs()), whole))


@pytest.mark.filterwarnings("ignore")  # torch, while it traces
@pytest.mark.parametrize("casts", [False, True])
def test_it_compiles_without_a_break(casts: bool) -> None:
    torch._dynamo.reset()
    weights = torch.bfloat16 if casts else torch.float64
    adapter = torch.float32 if casts else None
    plain = learn(
        adapt(fused=True, weights=weights, adapter=adapter), make_inputs(weights), casts=casts
    )
    model = adapt(fused=True, weights=weights, adapter=adapter)
    counter = CompileCounterWithBackend("eager")
    stack = model.base_model.model
    model.forward = torch.compile(lambda x: stack(x), backend=counter, fullgraph=True, dynamic=True)
    compiled = learn(model, make_inputs(weights), casts=casts)
    torch._dynamo.reset()
    assert counter.frame_count == 1
    for one, other in zip(compiled, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_the_files_of_an_adapter_stay_as_they_were(tmp_path: Path) -> None:
    saved = []
    for fused in (False, True):
        model = adapt(fused=fused, weights=torch.bfloat16, adapter=torch.float32)
        model.save_pretrained(tmp_path / f"{fused}")
        saved.append(load_file(tmp_path / f"{fused}" / "adapter_model.safetensors"))
    assert saved[0].keys() == saved[1].keys()
    for name, weight in saved[0].items():
        assert weight.dtype == saved[1][name].dtype
        assert torch.equal(weight, saved[1][name])


def test_layers_change_in_place() -> None:
    model = adapt(fused=False)
    fuse_lora(model)
    assert all(isinstance(layer, FusedLinear) for layer in model.base_model.model)
    assert fuse_lora(model) == 0
