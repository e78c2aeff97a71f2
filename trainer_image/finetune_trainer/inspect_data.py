"""``python -m finetune_trainer inspect``: looks at a job's data; publishes and trains nothing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from finetune_api.trainer import Stage
from finetune_trainer.context import StageContext, read_job
from finetune_trainer.failures import classify
from finetune_trainer.process import hide_torch
from finetune_trainer.report.events import EventEmitter


def inspect_job(arguments: argparse.Namespace) -> int:
    """Write what is known of a job's data as JSON; returns the exit code.

    Refusals of the data are part of what is known and no failure.
    """
    emit = EventEmitter(Stage.PREPARE)
    try:
        context = StageContext.from_environment(read_job(arguments.job), emit)
        if not context.job.spec.model.trust_remote_code:
            hide_torch()
        from finetune_trainer.prepare.inspection import inspect_sources

        found = inspect_sources(context, with_model=arguments.with_model)
    except Exception as error:
        failure = classify(error)
        code = int(failure.exit_code)
        emit.failure(reason=failure.reason, message=failure.message, exit_code=code, step=None)
        return code
    text = json.dumps(found.to_wire())
    Path(arguments.out).write_bytes(text.encode("utf-8", "backslashreplace"))
    return 0
