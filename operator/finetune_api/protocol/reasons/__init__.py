"""What the trainer's reasons mean and what to do; a module for each room that gives them.

The message of a failure names the values; here stands what holds for all of its kind. A test
keeps the table equal to what the trainer's code says.
"""

from __future__ import annotations

from finetune_api.protocol.reasons.data import DATA
from finetune_api.protocol.reasons.model import MODEL
from finetune_api.protocol.reasons.program import PROGRAM
from finetune_api.protocol.reasons.results import RESULTS
from finetune_api.protocol.reasons.storage import STORAGE
from finetune_api.protocol.reasons.traffic import TRAFFIC
from finetune_api.protocol.reasons.train import TRAIN
from finetune_api.reason_help import ReasonHelp as _Help

TRAINER_REASONS: dict[str, _Help] = {
    **STORAGE,
    **MODEL,
    **DATA,
    **TRAIN,
    **RESULTS,
    **PROGRAM,
    **TRAFFIC,
}
"""All of them."""
