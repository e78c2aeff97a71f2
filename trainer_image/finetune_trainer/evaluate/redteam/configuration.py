"""What garak is told: whom it asks, with what, and how much. Pure.

A configuration is JSON, which garak reads as the YAML it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.red_teaming import RedTeam
from finetune_trainer.model.chat_format import ChatFormat

ANSWER_TOKENS = 150
"""Longest answer, as garak's own default."""
MAX_TOKENS = 4096
"""Prompt and answer; longer prompts are few, and a server refuses them."""
NUM_AT_ONCE = 16
"""Prompts under way, each by a process of garak's."""
CALLED = "Assistant"
"""What models are called in prompts that name them; both alike, or no prompt would be the same."""
SEED = 0
"""Of all that garak draws: both sides get the same."""

_JOINED = (
    "{% for message in messages %}{{ '' if loop.first else '\n\n' }}{{ message['content'] }}"
    "{% endfor %}"
)
"""How a model without a chat template is asked: by the texts as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How models are asked, whichever of them.

    Attributes:
        chat_format: How conversations are written, as in training.
        answer_tokens: Longest answer to a held-out question.
    """

    chat_format: ChatFormat
    answer_tokens: int

    @property
    def template(self) -> str:
        """The chat template that the server is given: that of training."""
        return self.chat_format.template or _JOINED

    @property
    def max_answer_tokens(self) -> int:
        """Longest answer to a prompt; one that comes after reasoning needs room for that."""
        if not self.chat_format.answer_after:
            return ANSWER_TOKENS
        return max(ANSWER_TOKENS, min(self.answer_tokens, MAX_TOKENS // 2))


def make_configuration(
    red_team: RedTeam, asking: Asking, *, probe: str, model: str, run: str, url: str
) -> str:
    """Return the configuration of one run: one probe against one model.

    Args:
        red_team: What the job asks for.
        asking: How models are asked.
        probe: The probe.
        model: Name of the model on the server.
        run: What its files are called.
        url: The server's, up to and with ``/v1/``.
    """
    wire = {
        "system": {"parallel_attempts": NUM_AT_ONCE, "lite": True},
        "run": {
            "spec": {"include": [f"probes.{probe}"]},
            "seed": SEED,
            "generations": 1,
            "soft_probe_prompt_cap": red_team.max_prompts,
        },
        "plugins": {
            "target_type": "openai.OpenAICompatible",
            "target_name": CALLED,
            "generators": {"openai": {"OpenAICompatible": _generator(asking, model, url)}},
        },
        "reporting": {"report_prefix": run},
    }
    return json.dumps(wire, indent=1) + "\n"


def _generator(asking: Asking, model: str, url: str) -> dict[str, Any]:
    chat_format = asking.chat_format
    # What a call names last counts: the server's name in the place of the one in prompts.
    extra: dict[str, Any] = {"model": model, "stop_token_ids": list(chat_format.stop_ids)}
    if chat_format.template is None:
        # Nothing has written the tokens that a text begins with.
        extra["add_special_tokens"] = True
    told: dict[str, Any] = {
        "uri": url,
        "temperature": 0.0,
        "max_tokens": asking.max_answer_tokens,
        # garak's own default cuts answers at the first "#" or ";".
        "stop": [],
        "seed": SEED,
        "extra_params": {"extra_body": extra},
    }
    if chat_format.answer_after:
        # An answer is what follows this mark: reasoning before it is nobody's answer.
        extra["skip_special_tokens"] = False
        told |= {"skip_seq_start": "", "skip_seq_end": chat_format.answer_after}
    return told
