"""Makes processes of a stage fail on purpose. On PYTHONPATH of a test's stage; see ``faults.py``.

Python runs this file before anything else. ``TEST_FAULT`` says what is to go wrong and where.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from typing import Any

FAULT: dict[str, Any] = json.loads(os.environ.get("TEST_FAULT", "{}"))


def hang() -> None:
    """Let the test know, and wait: for the file ``until`` if one is named, else for ever."""
    with open(FAULT["mark"], "a") as mark:
        mark.write(".")
    while not ("until" in FAULT and os.path.exists(FAULT["until"])):
        time.sleep(0.01)


class HangingImport(MetaPathFinder):
    """Hangs where a module is imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == FAULT["module"]:
            hang()


def break_ranks() -> None:
    """Have a rank hang, run out of memory or diverge, at or from some step on."""
    from finetune_trainer.train.ranks import preference, sft

    for objective in (sft, preference):
        objective.build_trainer = break_trainers(objective.build_trainer)


def break_trainers(build_trainer: Callable[..., Any]) -> Callable[..., Any]:
    """Return what builds the same trainer, and breaks it."""
    rank = int(os.environ.get("RANK", "0"))

    def build(**values: Any) -> Any:
        trainer = build_trainer(**values)
        collate, compute_loss = trainer.data_collator, trainer.compute_loss
        train = trainer.train

        def collate_or_hang(rows: Any) -> Any:
            if trainer.state.global_step >= FAULT["step"] and rank == FAULT["rank"]:
                hang()
            return collate(rows)

        def compute_or_wait(*arguments: Any, **named: Any) -> Any:
            import torch

            if trainer.state.global_step >= FAULT["step"] and rank == FAULT["rank"]:
                with open(FAULT["mark"], "a") as mark:
                    mark.write(".")
                torch.distributed.recv(torch.zeros(1))  # nobody sends
            return compute_loss(*arguments, **named)

        def compute_or_fail(*arguments: Any, **named: Any) -> Any:
            import torch

            if trainer.args.per_device_train_batch_size > FAULT["fits"]:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return compute_loss(*arguments, **named)

        def compute_or_diverge(*arguments: Any, **named: Any) -> Any:
            loss = compute_loss(*arguments, **named)
            is_wrong = trainer.model.training and trainer.state.global_step in FAULT["steps"]
            return loss * float("nan") if is_wrong and rank == FAULT["rank"] else loss

        def train_and_hang(*arguments: Any, **named: Any) -> Any:
            output = train(*arguments, **named)
            if rank == FAULT["rank"]:
                hang()
            return output

        if FAULT["kind"] == "loader":
            # The attributes of its class stay in sight of those who ask for them.
            trainer.data_collator = type(
                "Hanging",
                (),
                {
                    "__call__": lambda _self, rows: collate_or_hang(rows),
                    "__getattr__": lambda _self, name: getattr(collate, name),
                },
            )()
        elif FAULT["kind"] == "trained":
            trainer.train = train_and_hang
        elif FAULT["kind"] == "collective":
            trainer.compute_loss = compute_or_wait
        elif FAULT["kind"] == "not-finite":
            trainer.compute_loss = compute_or_diverge
        else:
            trainer.compute_loss = compute_or_fail
        return trainer

    return build


def wait_less() -> None:
    """Have a node give its peers up early."""
    from finetune_trainer.train.parent import meeting

    assert meeting.meet.__kwdefaults__ is not None
    meeting.meet.__kwdefaults__["seconds"] = FAULT["meeting"]


def break_workers() -> None:
    """Have a worker of an evaluation hang after some batches of answers."""
    from finetune_trainer.evaluate.inference import transformers_engine

    generate, calls = transformers_engine.generate_batch, []

    def answer(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > FAULT["answers"]:
            hang()
        return generate(*arguments, **named)

    transformers_engine.generate_batch = answer


match FAULT.get("kind"):
    case "import" if "finetune_trainer" in sys.orig_argv:
        sys.meta_path.insert(0, HangingImport())
    case "loader" | "trained" | "collective" | "memory" | "not-finite" if (
        "--module" not in sys.orig_argv
        and any("ranks.worker" in word or "ranks/worker" in word for word in sys.orig_argv)
    ):
        break_ranks()
    case "impatience" if "finetune_trainer" in sys.orig_argv:
        wait_less()
    case "answers" if "finetune_trainer.evaluate.inference.worker" in sys.orig_argv:
        break_workers()
