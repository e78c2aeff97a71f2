"""Ranks that share the weights: DeepSpeed's ZeRO and FSDP2."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from accelerate.parallelism_config import ParallelismConfig
from torch.distributed import distributed_c10d
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer, core_model_loading, training_args
from transformers.trainer import SCHEDULER_NAME

from finetune_trainer.errors import InternalError
from finetune_trainer.planning.setup import MASTER_STRATEGIES
from finetune_trainer.train.recipe.recipe import Recipe

SHARDED = (*MASTER_STRATEGIES, "FSDP2")
"""Strategies that need the ranks' process group before there are training arguments on CPU."""


def sharding_arguments(recipe: Recipe, adapter: str) -> dict[str, Any]:
    """Return the training arguments of a recipe's strategy; join the ranks where accelerate cannot.

    Must be called before the model is loaded, by which :func:`loading_once` then holds.
    """
    arguments: dict[str, Any] = {}
    accelerator: dict[str, Any] = {}
    if recipe.strategy in MASTER_STRATEGIES:
        arguments["deepspeed"] = deepspeed_config(recipe)
        join = _join_ranks_for_deepspeed
    elif recipe.strategy == "FSDP2":
        arguments["fsdp"] = True
        arguments["fsdp_config"] = fsdp_config(recipe)
        # Else each rank keeps whole gradients, in float32. Those of QLoRA's adapter are small, and
        # its shards, in bfloat16, would sum micro batches in bfloat16.
        accelerator["gradient_accumulation_kwargs"] = {"sync_each_batch": adapter != "QLoRA"}
        if recipe.num_replicas > 1:
            arguments["parallelism_config"] = ParallelismConfig(
                dp_replicate_size=recipe.num_replicas,
                dp_shard_size=recipe.world_size // recipe.num_replicas,
            )
        # accelerate reads both when it joins the ranks: collectives over CPU tensors need gloo too.
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        os.environ["FSDP_STATE_DICT_TYPE"] = "FULL_STATE_DICT"
        join = _join_ranks_for_fsdp
    else:
        return {}
    if not recipe.use_gpu:
        join()
        accelerator["use_configured_state"] = True
    return {**arguments, "accelerator_config": accelerator}


def fsdp_config(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of FSDP2."""
    return {
        "version": 2,
        "reshard_after_forward": True,
        "state_dict_type": "FULL_STATE_DICT",
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "activation_checkpointing": recipe.activation_checkpointing,
        "cpu_ram_efficient_loading": True,
    }


@contextmanager
def loading_once(*, is_receiver: bool) -> Iterator[None]:
    """Load weights without memory for them in ranks that receive them from the first rank.

    transformers reads the files in every rank, and then fills the weights of such ranks with zeros:
    each would hold a whole model. Source: ``transformers.core_model_loading._materialize_copy`` and
    ``PreTrainedModel._move_missing_keys_from_meta_to_device``.
    """
    if not is_receiver:
        yield
        return
    zeros_like = torch.zeros_like

    def describe(stored: Any, device: Any = None, dtype: Any = None) -> torch.Tensor:
        # Files on an hf-mount file system are read whole, so tensors stand in place of slices.
        is_read = isinstance(stored, torch.Tensor)
        shape = list(stored.shape) if is_read else stored.get_shape()
        kind = dtype or (stored[:0] if shape else stored[...]).dtype
        return torch.empty(shape, dtype=kind, device="meta")

    def reserve(tensor: torch.Tensor, **options: Any) -> torch.Tensor:
        if not tensor.is_meta or options != {"device": "cpu"}:
            return zeros_like(tensor, **options)
        # These zeros take no memory until somebody writes to them.
        zeros = np.zeros(tensor.numel() * tensor.element_size(), dtype=np.uint8)
        return torch.from_numpy(zeros).view(tensor.dtype).view(tensor.shape)

    with (
        mock.patch.object(core_model_loading, "_materialize_copy", describe),
        mock.patch.object(torch, "zeros_like", reserve),
    ):
        yield


def deepspeed_config(recipe: Recipe) -> dict[str, Any]:
    """Return DeepSpeed's configuration; transformers fills in ``auto`` values."""
    stage = 3 if recipe.strategy == "ZeRO3" else 2
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": recipe.use_gpu}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": recipe.bfloat16},
        "fp16": {"enabled": False},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
    }


def check_strategy(trainer: Trainer, recipe: Recipe) -> None:
    """Raise ``InternalError`` if accelerate silently chose another strategy than the recipe."""
    from accelerate.utils import DistributedType

    expected = {
        "ZeRO2": DistributedType.DEEPSPEED,
        "ZeRO3": DistributedType.DEEPSPEED,
        "FSDP2": DistributedType.FSDP,
    }.get(recipe.strategy)
    actual = trainer.accelerator.distributed_type
    if expected is not None and actual != expected:
        raise InternalError(
            "StrategyIgnored",
            f"resources.strategy {recipe.strategy} was asked for, but accelerate runs "
            f"{actual.value}",
        )
    mesh = trainer.accelerator.torch_device_mesh
    num_replicas = 1 if mesh is None else mesh["dp_replicate"].size()
    if num_replicas != recipe.num_replicas:
        raise InternalError(
            "StrategyIgnored",
            f"{recipe.num_replicas} sharded copies of the weights were planned, but accelerate "
            f"holds {num_replicas}",
        )


def _join_ranks_for_deepspeed() -> None:
    """Join the process group over gloo, as ranks of DeepSpeed on CPU.

    TrainingArguments cannot: with the CPU it leaves DeepSpeed out, else it looks for a GPU's
    backend. Source: accelerate ``PartialState.__init__``.
    """
    import deepspeed
    from accelerate import PartialState

    # It would compile collectives over shared memory at every start: minutes in a pod, which keeps
    # no cache, for what gloo does as well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.pop("ACCELERATE_USE_CPU", None)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    try:
        PartialState(backend="gloo")
    finally:
        del os.environ["ACCELERATE_USE_DEEPSPEED"]


def _join_ranks_for_fsdp() -> None:
    """Join the process group over gloo, as ranks of FSDP2 on CPU.

    accelerate shards only where each rank has a device of its own, and PyTorch shards on CPU too.
    Source: accelerate ``AcceleratorState.__init__``.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    os.environ.pop("ACCELERATE_USE_CPU", None)
    state = PartialState(backend="gloo")
    state.device = torch.device("cpu")
    state.distributed_type = DistributedType.MULTI_GPU
    # transformers takes bfloat16 for a matter of GPUs wherever its `use_cpu` is not set.
    training_args.is_torch_bf16_gpu_available = lambda: True


def share_timeout(timeout: timedelta) -> None:
    """Let all groups of ranks wait as long as the group of all ranks does.

    torch gives the groups of a mesh, such as the ranks of a node, its own limit: 10 minutes with
    NCCL. Source: torch ``_get_default_timeout``.
    """
    for group in distributed_c10d._world.pg_map if dist.is_initialized() else ():
        distributed_c10d._set_pg_timeout(timeout, group)


class ShardedTrainer(Trainer):  # type: ignore[misc]
    """Sums gradients of FSDP2 in float32; saves what ranks train, once, and gathers nothing else.

    transformers gathers the frozen base at every checkpoint, and stores trained weights a second
    time for resuming. Here a run that resumes reads the ordinary files, before weights are sharded.
    Source: transformers ``Trainer.save_model`` and ``_save_optimizer_and_scheduler``.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Join accelerate; sum gradients and take losses in float32, as DDP does.

        accelerate would take bfloat16 for both.
        """
        super().create_accelerator_and_postprocess()
        share_timeout(self.args.ddp_timeout_delta)
        if self.is_fsdp_enabled and self.args.bf16:
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the trained weights in the model's ordinary files; all ranks must call it."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        weights = gather_trained(self.model)
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        from accelerate.utils import save_fsdp_optimizer

        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


def gather_trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the trained weights of a sharded model on the first rank's CPU, else nothing.

    All ranks must call it.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights: Any = get_model_state_dict(model, options=options)
    return dict(weights)
