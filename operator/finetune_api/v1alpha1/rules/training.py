"""Rules on how a model is trained: early stopping, noise, LoRA+, whole modules, optimiser."""

from __future__ import annotations

from finetune_api.meta import decimal_of
from finetune_api.rule import Rule
from finetune_api.v1alpha1.evaluation.metric_rules import (
    has_validation_rows,
    has_validation_rows_cel,
)

TRAINING_RULES: tuple[Rule, ...] = (
    Rule(
        rule=f"!has(self.checkpoint.earlyStopping) || {has_validation_rows_cel('self')}",
        message=(
            "checkpoint.earlyStopping needs validation rows, and there are none: set "
            "dataset.split.validationPercent above 0 and have a source that is split, or add one "
            "with side: Validation"
        ),
        field="checkpoint.earlyStopping",
        check=lambda s: s.checkpoint.early_stopping is None or has_validation_rows(s),
        only_new=True,
    ),
    Rule(
        rule=(
            "!has(self.hyperparameters.neftuneNoiseAlpha) || "
            "double(self.hyperparameters.neftuneNoiseAlpha) > 0.0"
        ),
        message=(
            "hyperparameters.neftuneNoiseAlpha must be greater than 0: leave it out for no noise"
        ),
        field="hyperparameters.neftuneNoiseAlpha",
        check=lambda s: (
            s.hyperparameters.neftune_noise_alpha is None
            or decimal_of(s.hyperparameters.neftune_noise_alpha) > 0
        ),
    ),
    Rule(
        rule="!has(self.hyperparameters.neftuneNoiseAlpha) || self.method.packing != 'On'",
        message=(
            "hyperparameters.neftuneNoiseAlpha does not fit method.packing On, whose rows hold "
            "several examples: use Auto or Off"
        ),
        field="hyperparameters.neftuneNoiseAlpha",
        check=lambda s: s.hyperparameters.neftune_noise_alpha is None or s.method.packing != "On",
    ),
    Rule(
        rule=(
            "!has(self.hyperparameters.loraPlusRatio) || "
            "double(self.hyperparameters.loraPlusRatio) >= 1.0"
        ),
        message="hyperparameters.loraPlusRatio must be at least 1",
        field="hyperparameters.loraPlusRatio",
        check=lambda s: (
            s.hyperparameters.lora_plus_ratio is None
            or decimal_of(s.hyperparameters.lora_plus_ratio) >= 1
        ),
    ),
    Rule(
        rule="!has(self.hyperparameters.loraPlusRatio) || self.method.adapter.type != 'Full'",
        message=(
            "hyperparameters.loraPlusRatio is about the matrices of an adapter, and "
            "method.adapter.type Full has none"
        ),
        field="hyperparameters.loraPlusRatio",
        check=lambda s: (
            s.hyperparameters.lora_plus_ratio is None or s.method.adapter.type != "Full"
        ),
    ),
    Rule(
        rule=(
            "!has(self.method.adapter.modulesToSave) || "
            "size(self.method.adapter.modulesToSave) == 0 || self.method.adapter.type != 'Full'"
        ),
        message=(
            "method.adapter.modulesToSave is for adapters: method.adapter.type Full trains every "
            "module"
        ),
        field="method.adapter.modulesToSave",
        check=lambda s: not s.method.adapter.modules_to_save or s.method.adapter.type != "Full",
    ),
    Rule(
        rule=(
            "self.hyperparameters.optimizer == 'AdamW' || "
            "self.resources.strategy in ['Auto', 'DDP']"
        ),
        message=(
            "hyperparameters.optimizer AdamW8bit and Adafactor need whole weights on each GPU: set "
            "resources.strategy to Auto or DDP, or take AdamW, whose states the other strategies "
            "divide among the ranks"
        ),
        field="hyperparameters.optimizer",
        check=lambda s: (
            s.hyperparameters.optimizer == "AdamW" or s.resources.strategy in ("Auto", "DDP")
        ),
    ),
)
