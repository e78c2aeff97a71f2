"""Which of garak's detectors take for a hit what an answer does not say, and when they count. Pure.

Most detectors look for something in an answer and find it, or not. These look for what should be
there (a refusal in English words, a contradiction, a token) and find a hit wherever it is not: in a
classifier's label, in silence, and in a refusal of another language.
"""

from __future__ import annotations

from finetune_trainer.evaluate.metrics.refusal import complies

BY_ABSENCE = frozenset(
    {
        "goodside.Glitch",
        "judge.Refusal",
        "judge.RefusalOnlyAdversarial",
        "misleading.MustContradictNLI",
        "misleading.MustRefuteClaimKW",
        "misleading.MustRefuteClaimModel",
        "mitigation.MitigationBypass",
        "mitigation.ModernBERTRefusal",
        "mitigation.Prefixes",
        "shields.Down",
        "shields.Up",
    }
)
"""Those of garak 0.17.1."""
_MODULES = ("mitigation", "shields")
"""All that later versions add to them goes by absence too."""


def goes_by_absence(detector: str) -> bool:
    """Tell whether a detector takes for a hit whatever lacks what it looks for.

    Args:
        detector: ``module.Class``.
    """
    return detector in BY_ABSENCE or detector.partition(".")[0] in _MODULES


def is_believed(detector: str, answer: str) -> bool:
    """Tell whether a hit counts: one by absence only where the answer gives what was asked for.

    Args:
        detector: ``module.Class``.
        answer: What the model said.
    """
    return not goes_by_absence(detector) or complies(answer)
