"""Rules between fields of a FineTuneJob's spec: all of them, and those without a module."""

from __future__ import annotations

from decimal import Decimal

from finetune_api.meta import decimal_of
from finetune_api.rule import Rule
from finetune_api.v1alpha1.evaluation.gates import GATE_RULES
from finetune_api.v1alpha1.evaluation.judging import JUDGE_RULES
from finetune_api.v1alpha1.evaluation.metric_rules import METRIC_RULES
from finetune_api.v1alpha1.evaluation.probing import PROBE_RULES
from finetune_api.v1alpha1.evaluation.red_teaming import RED_TEAM_RULES
from finetune_api.v1alpha1.evaluation.review import REVIEW_RULES
from finetune_api.v1alpha1.evaluation.scoring import LIKELIHOOD_METRICS
from finetune_api.v1alpha1.rules.batches import BATCH_RULES
from finetune_api.v1alpha1.rules.engine import ENGINE_RULES
from finetune_api.v1alpha1.rules.goal import GOAL_RULES
from finetune_api.v1alpha1.rules.network import NETWORK_RULES
from finetune_api.v1alpha1.rules.preferences import PREFERENCE_RULES
from finetune_api.v1alpha1.rules.sizes import SIZE_RULES
from finetune_api.v1alpha1.rules.sources import SOURCE_RULES
from finetune_api.v1alpha1.rules.training import TRAINING_RULES
from finetune_api.v1alpha1.spec.budget import BUDGET_RULES
from finetune_api.v1alpha1.spec.privacy import PRIVACY_RULES
from finetune_api.v1alpha1.spec.tracking import TRACKING_RULES

_HAS_LIKELIHOOD_GOAL = f"self.goal.metric in {list(LIKELIHOOD_METRICS)}"

SPEC_RULES: tuple[Rule, ...] = (
    Rule(
        rule=(
            "!has(self.model.chatTemplate) || "
            "has(self.model.chatTemplate.text) != has(self.model.chatTemplate.uri)"
        ),
        message="model.chatTemplate needs text or uri, and not both",
        field="model.chatTemplate",
        check=lambda s: (
            s.model.chat_template is None
            or (s.model.chat_template.text is None) != (s.model.chat_template.uri is None)
        ),
    ),
    Rule(
        rule=(
            "!has(self.goal) || has(self.goal.atLeast) || has(self.goal.atMost) || "
            "has(self.goal.overBase)"
        ),
        message="goal needs at least one of atLeast, atMost or overBase",
        field="goal",
        check=lambda s: (
            s.goal is None
            or any(v is not None for v in (s.goal.at_least, s.goal.at_most, s.goal.over_base))
        ),
    ),
    Rule(
        rule=f"!has(self.goal) || !has(self.goal.atLeast) || !({_HAS_LIKELIHOOD_GOAL})",
        message=(
            "goal.atLeast does not fit loss, perplexity and bitsPerByte, where lower is better: "
            "use atMost"
        ),
        field="goal.atLeast",
        check=lambda s: (
            s.goal is None or s.goal.at_least is None or s.goal.metric not in LIKELIHOOD_METRICS
        ),
    ),
    Rule(
        rule=f"!has(self.goal) || !has(self.goal.atMost) || {_HAS_LIKELIHOOD_GOAL}",
        message=(
            "goal.atMost fits only loss, perplexity and bitsPerByte, where lower is better: use "
            "atLeast"
        ),
        field="goal.atMost",
        check=lambda s: (
            s.goal is None or s.goal.at_most is None or s.goal.metric in LIKELIHOOD_METRICS
        ),
    ),
    Rule(
        rule="!has(self.goal) || !has(self.goal.atLeast) || double(self.goal.atLeast) <= 1.0",
        message=(
            "goal.atLeast must be at most 1: scores lie between 0 and 1, write 0.9 for 90 percent"
        ),
        field="goal.atLeast",
        check=lambda s: (
            s.goal is None or s.goal.at_least is None or decimal_of(s.goal.at_least) <= 1
        ),
    ),
    Rule(
        rule="self.dataset.split.testPercent + self.dataset.split.validationPercent <= 90",
        message=(
            "dataset.split: testPercent and validationPercent together leave less than "
            "10 percent to train on"
        ),
        field="dataset.split",
        check=lambda s: s.dataset.split.test_percent + s.dataset.split.validation_percent <= 90,
    ),
    Rule(
        rule=(
            "self.dataset.split.by != 'Time' || self.dataset.sources.all(s, s.side != 'Split' || "
            "s.uri.startsWith('traffic://') || (has(s.columns) && has(s.columns.time)))"
        ),
        message=(
            "dataset.split.by Time needs columns.time in every source with side: Split: name the "
            "column that holds the time of a row"
        ),
        field="dataset.split.by",
        check=lambda s: (
            s.dataset.split.by != "Time"
            or all(
                source.side != "Split"
                or source.is_traffic
                or (source.columns is not None and source.columns.time)
                for source in s.dataset.sources
            )
        ),
    ),
    Rule(
        rule=(
            "double(self.dataset.duplicates.threshold) >= 0.5 && "
            "double(self.dataset.duplicates.threshold) <= 1.0"
        ),
        message=(
            "dataset.duplicates.threshold must lie between 0.5 and 1: below, prompts have less in "
            "common than not"
        ),
        field="dataset.duplicates.threshold",
        check=lambda s: Decimal("0.5") <= decimal_of(s.dataset.duplicates.threshold) <= 1,
    ),
    Rule(
        rule=(
            "self.output.uri.startsWith('s3://') || "
            "self.output.uri.startsWith('file://') || "
            "self.output.uri.startsWith('pvc://')"
        ),
        message="output.uri must be s3://, pvc:// or file://: the Hub is read-only here",
        field="output.uri",
        check=lambda s: not s.output.uri.startswith("hf://"),
    ),
    Rule(
        rule=(
            "type(self.evaluation.maxSamples) == string || "
            "self.evaluation.maxSamples >= self.evaluation.minPrompts"
        ),
        message=(
            "evaluation.maxSamples must be at least evaluation.minPrompts: nothing could ever be "
            "published"
        ),
        field="evaluation.maxSamples",
        check=lambda s: (
            s.evaluation.max_samples == "auto"
            or s.evaluation.max_samples >= s.evaluation.min_prompts
        ),
    ),
    Rule(
        rule="double(self.method.adapter.dropout) < 1.0",
        message="method.adapter.dropout must be below 1",
        field="method.adapter.dropout",
        check=lambda s: decimal_of(s.method.adapter.dropout) < 1,
    ),
    Rule(
        rule="self.method.adapter.type != 'QLoRA' || self.resources.gpusPerNode > 0",
        message="method.adapter.type QLoRA needs a GPU: set resources.gpusPerNode, or use LoRA",
        field="method.adapter.type",
        check=lambda s: s.method.adapter.type != "QLoRA" or s.resources.gpus_per_node > 0,
    ),
    Rule(
        rule="self.resources.strategy != 'FSDP2' || self.resources.gpusPerNode > 0",
        message=(
            "resources.strategy FSDP2 needs GPUs: set resources.gpusPerNode, or use DDP or ZeRO3"
        ),
        field="resources.strategy",
        check=lambda s: s.resources.strategy != "FSDP2" or s.resources.gpus_per_node > 0,
    ),
    Rule(
        rule="self.method.adapter.type != 'QLoRA' || self.resources.strategy != 'ZeRO3'",
        message=(
            "resources.strategy ZeRO3 cannot shard the 4-bit weights of method.adapter.type QLoRA: "
            "use Auto, DDP or FSDP2, or an adapter of another type"
        ),
        field="resources.strategy",
        check=lambda s: s.method.adapter.type != "QLoRA" or s.resources.strategy != "ZeRO3",
    ),
    Rule(
        rule=(
            "type(self.evaluation.gpus) == string || "
            "self.evaluation.gpus <= self.resources.gpusPerNode"
        ),
        message=(
            "evaluation.gpus must be at most resources.gpusPerNode: evaluation runs on one of the "
            "nodes"
        ),
        field="evaluation.gpus",
        check=lambda s: (
            s.evaluation.gpus == "auto" or s.evaluation.gpus <= s.resources.gpus_per_node
        ),
    ),
    Rule(
        rule=(
            "self.resources.gpusPerNode > 0 || (self.hyperparameters.compile == 'Off' && "
            "self.hyperparameters.kernels != 'Liger' && "
            "!(self.hyperparameters.attention in ['Flash', 'Varlen', 'Flex']))"
        ),
        message=(
            "hyperparameters.attention Flash, Varlen and Flex, kernels Liger and compile On need a "
            "GPU: set resources.gpusPerNode, or leave them out"
        ),
        field="hyperparameters",
        check=lambda s: (
            s.resources.gpus_per_node > 0
            or (
                s.hyperparameters.compile == "Off"
                and s.hyperparameters.kernels != "Liger"
                and s.hyperparameters.attention not in ("Flash", "Varlen", "Flex")
            )
        ),
    ),
    Rule(
        rule="self.output.formats.exists(f, f == 'Adapter')",
        message="output.formats must contain Adapter",
        field="output.formats",
        check=lambda s: "Adapter" in s.output.formats,
    ),
    Rule(
        rule=(
            "self.hyperparameters.learningRate == 'auto' || "
            "double(self.hyperparameters.learningRate) > 0.0"
        ),
        message="hyperparameters.learningRate must be greater than 0",
        field="hyperparameters.learningRate",
        check=lambda s: (
            s.hyperparameters.learning_rate == "auto"
            or decimal_of(s.hyperparameters.learning_rate) > 0
        ),
    ),
    Rule(
        rule="double(self.hyperparameters.epochs) > 0.0",
        message="hyperparameters.epochs must be greater than 0",
        field="hyperparameters.epochs",
        check=lambda s: decimal_of(s.hyperparameters.epochs) > 0,
    ),
    Rule(
        rule="double(self.hyperparameters.warmupRatio) < 1.0",
        message="hyperparameters.warmupRatio must be below 1: it is a share of the steps",
        field="hyperparameters.warmupRatio",
        check=lambda s: decimal_of(s.hyperparameters.warmup_ratio) < 1,
    ),
    *BATCH_RULES,
    *NETWORK_RULES,
    *TRAINING_RULES,
    *PREFERENCE_RULES,
    *GOAL_RULES,
    *METRIC_RULES,
    *GATE_RULES,
    *REVIEW_RULES,
    *JUDGE_RULES,
    *ENGINE_RULES,
    *RED_TEAM_RULES,
    *PROBE_RULES,
    *SOURCE_RULES,
    *PRIVACY_RULES,
    *BUDGET_RULES,
    *TRACKING_RULES,
    *SIZE_RULES,
)
