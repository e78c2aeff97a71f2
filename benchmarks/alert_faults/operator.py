"""The operator as it is, on a fast clock; one job name, if told so, meets a planted defect.

``python -m benchmarks.alert_faults.operator`` takes the flags of ``python -m finetune_operator``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks.alert_faults.clock import FastClock

from finetune_operator import __main__ as operator
from finetune_operator.controllers import finetunejob
from finetune_operator.kube.clock import ServerClock, SystemClock

DEFECT = "ALERT_FAULTS_DEFECT"
"""Name of the FineTuneJob whose plan raises what no code expects."""


def run_fast() -> None:
    """Have every clock of this process read the fast one."""
    clock = FastClock.from_environment()
    for kind in (SystemClock, ServerClock):
        kind.now = lambda self: clock.now()  # type: ignore[method-assign]
    SystemClock.monotonic = lambda self: clock.monotonic()  # type: ignore[method-assign]


def plant_defect(name: str) -> None:
    """Have the plan of one job fail as a defect would."""
    plan = vars(finetunejob)["plan"]

    def plan_or_fail(observed: Any, *more: Any) -> Any:
        if observed.name == name:
            raise ZeroDivisionError("a planted defect")
        return plan(observed, *more)

    vars(finetunejob)["plan"] = plan_or_fail


if __name__ == "__main__":
    run_fast()
    if name := os.environ.get(DEFECT):
        plant_defect(name)
    sys.exit(operator.main())
