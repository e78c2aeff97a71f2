"""Builds TRL's SFTTrainer from a recipe."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
)
from trl import SFTConfig

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import InternalError, UserError
from finetune_trainer.train.ranks.validation import SupervisedTrainer
from finetune_trainer.train.recipe.recipe import Recipe

SCHEDULERS = {
    "Cosine": "cosine",
    "Linear": "linear",
    "Constant": "constant_with_warmup",
    "WSD": "warmup_stable_decay",
}
OPTIMIZERS = {"AdamW8bit": "adamw_bnb_8bit", "Adafactor": "adafactor"}
"""Names that transformers has for them. AdamW is its default."""
DECAY_SHARE = 0.2
"""Share of the steps over which WSD lets the learning rate fall."""


def build_config(
    job: ResolvedJob, recipe: Recipe, output_dir: Path, *, has_validation: bool
) -> SFTConfig:
    """Build the training arguments, before the model is loaded: ZeRO-3 shards while loading."""
    return SFTConfig(
        **training_arguments(job, recipe, output_dir, has_validation=has_validation),
        packing=recipe.packing,
        eval_packing=False,
        padding_free=recipe.padding_free and not recipe.packing,
        max_length=job.spec.hyperparameters.max_sequence_length if recipe.packing else None,
        dataset_kwargs=None if recipe.packing else {"skip_prepare_dataset": True},
    )


def training_arguments(
    job: ResolvedJob, recipe: Recipe, output_dir: Path, *, has_validation: bool
) -> dict[str, Any]:
    """Return the training arguments that all objectives share."""
    hyper = job.spec.hyperparameters
    extra: dict[str, Any] = {}
    if hyper.scheduler == "WSD":
        decay = math.ceil(DECAY_SHARE * recipe.total_steps)
        extra["lr_scheduler_kwargs"] = {"num_decay_steps": decay, "decay_type": "1-sqrt"}
    if hyper.optimizer in OPTIMIZERS:
        extra["optim"] = OPTIMIZERS[hyper.optimizer]
    if hyper.neftune_noise_alpha is not None:
        extra["neftune_noise_alpha"] = float(hyper.neftune_noise_alpha)
    if recipe.strategy in ("ZeRO2", "ZeRO3"):
        extra["deepspeed"] = deepspeed_config(recipe)
        if not recipe.use_gpu:
            join_ranks_for_deepspeed()
            extra["accelerator_config"] = {"use_configured_state": True}
    elif recipe.strategy == "FSDP2":
        extra["fsdp"] = True
        extra["fsdp_config"] = {
            "version": 2,
            "reshard_after_forward": True,
            "state_dict_type": "FULL_STATE_DICT",
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "activation_checkpointing": recipe.activation_checkpointing,
        }
    checkpointing = recipe.activation_checkpointing and recipe.strategy != "FSDP2"
    return dict(
        output_dir=str(output_dir),
        # With this set accelerate would run DDP instead of DeepSpeed, without a word.
        use_cpu=not recipe.use_gpu and "deepspeed" not in extra,
        bf16=recipe.bfloat16,
        per_device_train_batch_size=recipe.micro_batch_size,
        # KTO compares the answers of a batch, so its loss depends on the size.
        per_device_eval_batch_size=(
            recipe.micro_batch_size
            if job.spec.method.objective == "KTO"
            else recipe.validation_batch_size
        ),
        gradient_accumulation_steps=recipe.accumulation_steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=SCHEDULERS[hyper.scheduler],
        warmup_steps=float(hyper.warmup_ratio) if float(hyper.warmup_ratio) < 1 else 0,
        weight_decay=float(hyper.weight_decay),
        max_grad_norm=float(hyper.max_grad_norm),
        num_train_epochs=recipe.epochs,
        max_steps=hyper.max_steps or -1,
        seed=hyper.seed,
        data_seed=hyper.seed,
        gradient_checkpointing=checkpointing,
        torch_compile=recipe.use_gpu and hyper.compile == "On",
        logging_steps=hyper.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=job.spec.checkpoint.every_steps,
        save_total_limit=None,  # a local checkpoint goes once it is durable, never before
        eval_strategy="steps" if has_validation else "no",
        eval_steps=recipe.validation_interval,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=recipe.use_gpu,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False if recipe.world_size > 1 else None,
        **extra,
    )


def build_trainer(
    *,
    job: ResolvedJob,
    config: SFTConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lora: LoraConfig | None,
    train: Dataset,
    validation: Dataset,
    callbacks: list[TrainerCallback],
) -> SupervisedTrainer:
    """Build the trainer over datasets with the columns ``input_ids`` and ``labels``."""
    trainer = SupervisedTrainer(
        model=model,
        args=config,
        train_dataset=train,
        eval_dataset=validation if len(validation) else None,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=callbacks,
    )
    trainer.set_lora_plus_ratio(job.spec.hyperparameters.lora_plus_ratio)
    silence(trainer)
    return trainer


def silence(trainer: Trainer) -> None:
    """Remove the callbacks whose prints would mix with our events on stdout."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Put trained weights into a fresh adapter of the same shape, before ranks share it out.

    Raises:
        UserError: The weights are of other modules or of another shape.
    """
    weights = load_file(folder / "adapter_model.safetensors")
    held = set(get_peft_model_state_dict(model))
    if held != set(weights):
        different = sorted(held ^ set(weights))
        raise UserError(
            "OriginMismatch",
            f"initFrom: {len(different)} weights of the adapter exist only on one side, first "
            f"{different[0]}; method.adapter must be that of the other run",
        )
    set_peft_model_state_dict(model, weights)


def join_ranks_for_deepspeed() -> None:
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


def count_trainable(model: torch.nn.Module) -> int:
    """Count the trainable parameters, also of a model that ZeRO-3 has sharded."""
    return sum(
        int(getattr(parameter, "ds_numel", parameter.numel()))
        for parameter in model.parameters()
        if parameter.requires_grad
    )


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
