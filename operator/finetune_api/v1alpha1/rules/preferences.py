"""Rules on learning from preferences."""

from __future__ import annotations

from typing import Any

from finetune_api.meta import decimal_of
from finetune_api.rule import Rule

_SFT = "self.method.objective == 'SFT'"
_PAIRS = ("DPO", "ORPO")


def _is_sft(spec: Any) -> bool:
    return bool(spec.method.objective == "SFT")


PREFERENCE_RULES: tuple[Rule, ...] = (
    Rule(
        rule=f"{_SFT} || self.method.adapter.type != 'Full'",
        message=(
            "method.objective DPO, KTO and ORPO train an adapter, whose base model is what answers "
            "are compared with; method.adapter.type Full leaves none: use LoRA"
        ),
        field="method.adapter.type",
        check=lambda s: _is_sft(s) or s.method.adapter.type != "Full",
    ),
    Rule(
        rule=f"{_SFT} || !(self.resources.strategy in ['ZeRO3', 'FSDP2'])",
        message=(
            "resources.strategy ZeRO3 and FSDP2 do not fit method.objective DPO, KTO and ORPO: use "
            "Auto, DDP or ZeRO2"
        ),
        field="resources.strategy",
        check=lambda s: _is_sft(s) or s.resources.strategy not in ("ZeRO3", "FSDP2"),
    ),
    Rule(
        rule=f"{_SFT} || self.method.packing != 'On'",
        message="method.packing On does not fit method.objective DPO, KTO and ORPO: leave it out",
        field="method.packing",
        check=lambda s: _is_sft(s) or s.method.packing != "On",
    ),
    Rule(
        rule=f"{_SFT} || self.method.loss in ['Auto', 'Completion']",
        message=(
            "method.loss: with method.objective DPO, KTO and ORPO the answers count and nothing "
            "else: leave it out"
        ),
        field="method.loss",
        check=lambda s: _is_sft(s) or s.method.loss in ("Auto", "Completion"),
    ),
    Rule(
        rule=f"{_SFT} || !has(self.hyperparameters.neftuneNoiseAlpha)",
        message=(
            "hyperparameters.neftuneNoiseAlpha is for method.objective SFT: noise would blur what "
            "preferences compare"
        ),
        field="hyperparameters.neftuneNoiseAlpha",
        check=lambda s: _is_sft(s) or s.hyperparameters.neftune_noise_alpha is None,
    ),
    Rule(
        rule=f"!({_SFT}) || !self.dataset.sources.exists(s, s.format == 'Preference')",
        message=(
            "dataset.sources: format Preference needs method.objective DPO, KTO or ORPO: set it, "
            "or give examples of one answer"
        ),
        field="dataset.sources",
        check=lambda s: (
            not _is_sft(s) or all(source.format != "Preference" for source in s.dataset.sources)
        ),
    ),
    Rule(
        rule=(
            "!has(self.goal) || self.goal.metric != 'preferenceAccuracy' || "
            "self.method.objective in ['DPO', 'ORPO']"
        ),
        message=(
            "goal.metric preferenceAccuracy compares pairs of answers: it needs method.objective "
            "DPO or ORPO"
        ),
        field="goal.metric",
        check=lambda s: (
            s.goal is None or s.goal.metric != "preferenceAccuracy" or s.method.objective in _PAIRS
        ),
    ),
    Rule(
        rule=("!has(self.initFrom) || self.method.objective in ['SFT', 'ORPO']"),
        message=(
            "initFrom does not fit method.objective DPO and KTO, which compare with the model that "
            "training begins from, and that is the base model: give the merged model as model.uri"
        ),
        field="initFrom",
        check=lambda s: s.init_from is None or s.method.objective in ("SFT", "ORPO"),
    ),
    Rule(
        rule=(
            "self.method.objective != 'KTO' || type(self.hyperparameters.microBatchSize) == string "
            "|| self.hyperparameters.microBatchSize > 1"
        ),
        message=(
            "hyperparameters.microBatchSize must be at least 2 with method.objective KTO, which "
            "compares the answers of a batch"
        ),
        field="hyperparameters.microBatchSize",
        check=lambda s: (
            s.method.objective != "KTO"
            or s.hyperparameters.micro_batch_size == "auto"
            or s.hyperparameters.micro_batch_size > 1
        ),
    ),
    Rule(
        rule=(
            "double(self.method.preference.beta) > 0.0 && "
            "double(self.method.preference.desirableWeight) > 0.0 && "
            "double(self.method.preference.undesirableWeight) > 0.0"
        ),
        message=(
            "method.preference: beta, desirableWeight and undesirableWeight must be greater than 0"
        ),
        field="method.preference",
        check=lambda s: all(
            decimal_of(value) > 0
            for value in (
                s.method.preference.beta,
                s.method.preference.desirable_weight,
                s.method.preference.undesirable_weight,
            )
        ),
    ),
)
