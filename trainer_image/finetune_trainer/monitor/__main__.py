"""``python -m finetune_trainer.monitor``: one look at what an endpoint has captured.

Its task is JSON in the environment. Its report is the termination message.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from finetune_api.protocol.monitoring import TASK, LookReport, LookTask
from finetune_api.protocol.trainer import Environment, ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.failures import classify
from finetune_trainer.monitor.running import run_look
from finetune_trainer.process import write_last_words


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Look once; return the exit code."""
    credentials = environment.get(Environment.CREDENTIALS_DIR)
    try:
        report = run_look(
            LookTask.model_validate_json(environment[TASK]),
            folder=Path(environment.get(Environment.WORK_DIR, "/tmp")),  # noqa: S108 - the pod's own
            credentials_dir=Path(credentials) if credentials else None,
        )
    except Exception as error:
        if not isinstance(error, TrainerError):
            traceback.print_exc()
        found = classify(error)
        print(f"{found.reason}: {found.message}", file=sys.stderr)
        words = LookReport(reason=found.reason, message=found.message)
        write_last_words(words.to_text())
        return found.exit_code
    print(report.to_text(), flush=True)
    write_last_words(report.to_text())
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
