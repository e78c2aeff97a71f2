"""Builds TRL's SFTTrainer from a recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

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
from finetune_trainer.errors import UserError
from finetune_trainer.train.parent.watchdog import PATIENCE_SECONDS
from finetune_trainer.train.ranks.sharding import SHARDED, sharding_arguments
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
LEAST_WARMUP = 5
"""Steps over which the learning rate rises at least; in a run below 50 steps, a tenth of it."""
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
    extra.update(sharding_arguments(recipe, job.spec.method.adapter.type))
    checkpointing = recipe.activation_checkpointing and recipe.strategy != "FSDP2"
    return dict(
        output_dir=str(output_dir),
        # With this set accelerate would run DDP instead of sharding, without a word.
        use_cpu=not recipe.use_gpu and recipe.strategy not in SHARDED,
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
        warmup_steps=count_warmup(float(hyper.warmup_ratio), recipe.total_steps),
        weight_decay=float(hyper.weight_decay),
        max_grad_norm=float(hyper.max_grad_norm),
        num_train_epochs=recipe.epochs,
        max_steps=hyper.max_steps or -1,
        seed=hyper.seed,
        data_seed=hyper.seed,
        gradient_checkpointing=checkpointing,
        logging_steps=hyper.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=job.spec.checkpoint.interval,
        save_total_limit=None,  # a local checkpoint goes once it is durable, never before
        eval_strategy="steps" if has_validation else "no",
        eval_steps=recipe.validation_interval,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=recipe.use_gpu,
        # The first rank of FSDP2 may read the base for long, while the others wait in a collective.
        ddp_timeout=int(PATIENCE_SECONDS),
        remove_unused_columns=False,
        # Without the search DDP orders gradients anew after its first step. Then a run that resumes
        # sums over three ranks or more in another order, to other bytes. Source: torch `Reducer`,
        # `should_rebuild_buckets`.
        ddp_find_unused_parameters=True if recipe.world_size > 1 else None,
        **extra,
    )


def count_warmup(ratio: float, total_steps: int) -> int:
    """Return the steps of the warm-up; a share of 0 has none.

    The rate of the first of them is 0, so a single step has no warm-up.
    """
    steps = max(math.ceil(ratio * total_steps), min(LEAST_WARMUP, total_steps // 10))
    return min(steps, total_steps - 1) if 0 < ratio < 1 else 0


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
