"""What garak is told: whom it asks, with what, and how much. Pure.

A configuration is JSON, which garak reads as the YAML it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.evaluation.red_teaming import RedTeam
from finetune_trainer.model.chat_format import ChatFormat
from finetune_trainer.model.reasoning import begins_to_reason
from finetune_trainer.planning.answering import REASONING_TOKENS

ANSWER_TOKENS = 150
"""Longest answer, as garak's own default; a few probes set another."""
MAX_TOKENS = 4096
"""Prompt and answer; longer prompts are few, and a server refuses them."""
NUM_AT_ONCE = 16
"""Prompts under way, each by a process of garak's."""
CALLED = "Assistant"
"""What models are called in prompts that name them; both alike, or no prompt would be the same."""
SEED = 0
"""Of all that garak draws: both sides get the same."""
_GREEDY = {"temperature": 0.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}

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
        prompt: Any question as a model is given it.
        room: Longest conversation with its answer.
    """

    chat_format: ChatFormat
    answer_tokens: int
    prompt: str = ""
    room: int = MAX_TOKENS

    @property
    def template(self) -> str:
        """The chat template that the server is given: that of training."""
        return self.chat_format.template or _JOINED

    @property
    def max_answer_tokens(self) -> int:
        """Longest answer to a prompt; one that comes after reasoning needs room for that."""
        longest = ANSWER_TOKENS
        if self.chat_format.knows_reasoning:
            longest = max(ANSWER_TOKENS + REASONING_TOKENS, self.answer_tokens)
        return min(longest, self.room // 2)

    @property
    def cut_after(self) -> str:
        """What garak cuts answers after: the mark of their beginning but for its last character.

        That one stays, and tells an answer from reasoning that never came to its end.
        """
        return self.chat_format.answer_after[:-1]

    def read_answer(self, text: str) -> str | None:
        """Return the answer in what garak has left of it; None where reasoning has not ended.

        A model that does not reason answers without a mark, unless the prompt itself begins the
        reasoning.
        """
        if not self.cut_after:
            return text
        mark = self.chat_format.answer_after
        if text.startswith(mark[-1]):
            return text[1:].lstrip()
        return None if begins_to_reason(self.chat_format, self.prompt, text) else text


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
    # What a call names last counts: the server's name in the place of the one in prompts, and
    # greedy answers in the place of what a probe sets (promptinject: a temperature of up to 0.9).
    extra: dict[str, Any] = {
        "model": model,
        "stop_token_ids": list(chat_format.stop_ids),
        **_GREEDY,
    }
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
    if asking.cut_after:
        # An answer is what follows this mark: reasoning before it is nobody's answer. It takes its
        # room whatever a probe sets (promptinject: 60 tokens and more).
        extra |= {"skip_special_tokens": False, "max_tokens": asking.max_answer_tokens}
        told |= {"skip_seq_start": "", "skip_seq_end": asking.cut_after}
    return told
