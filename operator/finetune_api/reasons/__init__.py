"""Meaning and remedy of each reason in a status.

``OPERATOR_REASONS`` come from the operator, pods and Kueue; the trainer's are in
:mod:`finetune_api.protocol.reasons`. The reference page has both. The metrics use the first as
label values, which bounds their number.
"""

from __future__ import annotations

from finetune_api.reason_help import ReasonHelp
from finetune_api.reasons.acceptance import ACCEPTANCE
from finetune_api.reasons.endpoints import ENDPOINTS
from finetune_api.reasons.failures import CLASSES, PODS
from finetune_api.reasons.life import EVENTS, LIFE
from finetune_api.reasons.queue import QUEUE
from finetune_api.reasons.schedules import SCHEDULES
from finetune_api.reasons.sweeps import SWEEPS

OPERATOR_REASONS: dict[str, ReasonHelp] = {
    **ACCEPTANCE,
    **LIFE,
    **EVENTS,
    **CLASSES,
    **PODS,
    **QUEUE,
    **SWEEPS,
    **ENDPOINTS,
    **SCHEDULES,
}
"""All of them."""
