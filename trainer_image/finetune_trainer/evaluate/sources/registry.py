"""The sources of evidence, in the order in which they ask and measure."""

from __future__ import annotations

from finetune_trainer.evaluate.sources.champion.source import ChampionSource
from finetune_trainer.evaluate.sources.judge.source import JudgeSource
from finetune_trainer.evaluate.sources.probes.source import ProbeSource
from finetune_trainer.evaluate.sources.prompt_baseline.source import PromptSource
from finetune_trainer.evaluate.sources.red_team.source import RedTeamSource
from finetune_trainer.evaluate.sources.review.source import ReviewSource
from finetune_trainer.evaluate.sources.source import EvidenceSource

SOURCES: tuple[type[EvidenceSource], ...] = (
    PromptSource,
    ProbeSource,
    ChampionSource,
    RedTeamSource,
    JudgeSource,
    ReviewSource,
)
