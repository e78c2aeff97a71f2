"""``finetune advise``: asks the base model with a good prompt, and says whether that would do."""

from __future__ import annotations

import sys
from typing import Any

from finetune_api.protocol.trainer import Event
from finetune_api.v1alpha1.evaluation.scoring import BASELINE_WORDS
from finetune_cli.exits import NOT_MET, OK
from finetune_cli.extras import require_trainer
from finetune_cli.local.job import LocalRun
from finetune_cli.local.question import ask_trainer
from finetune_cli.views.progress_line import ProgressLine

NOT_REACHED = ("NotMet", "Undecided", "NoThreshold")
SHOWN_CHARACTERS = 600
"""How much of each turn of the prompt is printed; JSON has all of it."""


def find_advice(run: LocalRun) -> dict[str, Any]:
    """Prepare a job's data set, ask its base model, and return the score of prompting.

    Raises:
        CliError: Missing libraries, or a refusal by the trainer.
    """
    require_trainer(to="asking a model on this machine")
    uri = run.job.spec.model.uri
    print(f"preparing the data, then asking the model {uri}", file=sys.stderr, flush=True)
    with ProgressLine(sys.stderr) as line:

        def show(event: Event) -> None:
            if event.event == "message":
                print(event.message, file=sys.stderr, flush=True)
            line.show(event)

        return ask_trainer(
            run, "advise", doing="asking the base model", log_stays=True, on_event=show
        )


def exit_code_of(advice: dict[str, Any]) -> int:
    """Return 0 if prompting meets the goal or there is none, and 1 if it does not for certain."""
    return NOT_MET if advice["verdict"] in NOT_REACHED else OK


def describe(advice: dict[str, Any]) -> str:
    """Write advice for a terminal."""
    lines = [advice["sentence"], "", f"{'metric':<22}{'base':<16}{'score':>8}   interval"]
    lines += [
        f"{each['metric']:<22}{BASELINE_WORDS[each['asked']]:<16}{each['value']:>8}   "
        f"{each['low']} to {each['high']}"
        for each in advice["scores"]
    ]
    baseline = advice["baseline"]
    lines += ["", f"{advice['numPrompts']:,} held-out prompts. {baseline['words']}"]
    lines += [f"{text[:1].upper()}{text[1:]}." for text in baseline["told"]]
    if advice["suggestions"]:
        lines += ["", "next:", *(f"- {text}" for text in advice["suggestions"])]
    if baseline["prompt"]:
        lines += ["", "the prompt:"]
        lines += [_shown(turn) for turn in baseline["prompt"]]
    return "\n".join(lines)


def _shown(turn: dict[str, str]) -> str:
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in turn["content"])
    cut = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."
    body = cut.replace("\n", "\n    ")
    return f"  {turn['role'] or 'text'}:\n    {body}"
