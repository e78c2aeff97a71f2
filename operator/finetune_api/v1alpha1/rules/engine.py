"""Rules on the engine that computes the evaluation's answers: what a server can be asked."""

from __future__ import annotations

from finetune_api.rule import Rule

ENGINE_RULES: tuple[Rule, ...] = (
    Rule(
        rule=(
            "self.evaluation.engine != 'VLLM' || "
            "(self.method.adapter.type in ['LoRA', 'RsLoRA'] && "
            "!(has(self.method.adapter.modulesToSave) && "
            "size(self.method.adapter.modulesToSave) > 0) && "
            "!(has(self.method.adapter.targetModules) && "
            "'lm_head' in self.method.adapter.targetModules))"
        ),
        message=(
            "evaluation.engine VLLM serves adapters of type LoRA and RsLoRA without modulesToSave "
            "and lm_head: use Transformers for this method.adapter"
        ),
        field="evaluation.engine",
        check=lambda s: (
            s.evaluation.engine != "VLLM"
            or (
                s.method.adapter.type in ("LoRA", "RsLoRA")
                and not s.method.adapter.modules_to_save
                and "lm_head" not in s.method.adapter.target_modules
            )
        ),
    ),
)
