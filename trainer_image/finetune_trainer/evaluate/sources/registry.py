"""The sources of evidence, in the order in which they ask, measure and are shown."""

from __future__ import annotations

from finetune_trainer.evaluate.sources.red_team.source import RedTeamSource
from finetune_trainer.evaluate.sources.source import EvidenceSource

SOURCES: tuple[type[EvidenceSource], ...] = (RedTeamSource,)
