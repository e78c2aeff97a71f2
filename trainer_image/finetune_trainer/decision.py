"""A person's decision that lets a candidate be published which does not get there by itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from finetune_api.protocol.evaluation_result import EvaluateResult

KEY_DIGITS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishDecision:
    """A FineTuneApproval's decision to publish a candidate.

    Attributes:
        evaluation: Digest of the manifest of the reviewed evaluation.
        by: User.
        reason: The user's reason.
        approval: Name of the FineTuneApproval; empty outside a cluster.
        panel: Digest of the panel's result; empty for a decision that overrules every gate.
    """

    evaluation: str
    by: str
    reason: str
    approval: str = ""
    panel: str = ""

    @property
    def key(self) -> str:
        """Return a name for where its record lies: another decision has another one."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    def inputs(self, result: EvaluateResult) -> dict[str, str]:
        """Return what a version's manifest says of it."""
        inputs = {"decidedBy": self.by, "decisionReason": self.reason}
        if self.approval:
            inputs["approval"] = self.approval
        if self.panel:
            inputs["panel"] = self.panel
        if result.is_missed:
            inputs["override"] = result.missed_words
        return inputs

    def card_section(self, result: EvaluateResult) -> str:
        """Return what the model card says of it, in Markdown."""
        named = f" (FineTuneApproval `{_plain(self.approval)}`)" if self.approval else ""
        words = f"{_plain(self.by)} decided{named} that this model is published"
        if result.is_missed:
            missed = _plain(result.missed_words).rstrip(".")
            words = f"**It missed what it was held to**: {missed}.\n\n{words} all the same"
        return f"## Publication\n\n{words}. Reason given: {_plain(self.reason)}\n"


def _plain(text: str) -> str:
    line = " ".join(text.split())
    return "".join(
        f"\\{character}" if character in "\\`*_[]<>#|" else character for character in line
    )
