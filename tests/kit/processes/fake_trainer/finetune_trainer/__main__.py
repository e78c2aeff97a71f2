"""Plays a script instead of a stage.

FAKE_TRAINER holds ``{stage: [what to do in attempt 1, 2, ...]}``, the last entry repeats:
``ok``, ``fail:<exit code>``, ``crash``, ``hang`` (until SIGTERM, then exit 79), ``late`` (until
SIGTERM, then ``ok``), ``garbage``, ``kill``, ``missed``, ``passed`` (without a version).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

RESULTS = {
    "prepare": {
        "stage": "prepare",
        "digest": "d1",
        "uri": "file:///out/datasets/d1",
        "rows": {"train": 480, "validation": 0, "test": 120},
        "numTokens": 1000,
        "numInvalidRows": 0,
        "numTruncatedRows": 0,
    },
    "train": {
        "stage": "train",
        "uri": "file:///out/runs/default/example/uid/adapter",
        "sha256": "ab" * 32,
        "numBytes": 10,
        "manifestSha256": "cd" * 32,
        "step": 90,
    },
    "evaluate": {
        "stage": "evaluate",
        "scores": [
            {
                "name": "exactMatch",
                "base": "0.3300",
                "tuned": "0.9100",
                "tunedLow": "0.8600",
                "tunedHigh": "0.9500",
                "deltaLow": "0.5000",
                "deltaHigh": "0.6600",
            }
        ],
        "numSamples": 120,
        "goalMet": True,
        "goalMessage": "exactMatch 0.9100 is at least 0.80",
        "reportUri": "file:///out/report.json",
        "version": 3,
        "manifestUri": "file:///out/versions/default/example/3/manifest.json",
    },
}


def emit(stage: str, event: str, **fields: object) -> None:
    print(json.dumps({"event": event, "stage": stage, **fields}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage")
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--data-digest", choices=[RESULTS["prepare"]["digest"]])
    arguments = parser.parse_args()
    stage = arguments.stage
    job = json.loads(arguments.job.read_text())
    work_dir = Path(os.environ["FINETUNE_WORK_DIR"])
    counter = work_dir / f"attempts-{stage}"
    attempt = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(attempt + 1))
    script = json.loads(os.environ.get("FAKE_TRAINER", "{}")).get(stage, ["ok"])
    return play(script[min(attempt, len(script) - 1)], stage, job)


def play(action: str, stage: str, job: dict) -> int:
    stops: list[int] = []
    if action in ("hang", "late"):
        signal.signal(signal.SIGTERM, lambda number, _frame: stops.append(number))
    emit(stage, "message", message=f"{stage} of {job['name']} begins")
    emit(stage, "progress", step=1, totalSteps=2, metrics={"loss": 2.5, "tokens_per_second": 900})
    if action in ("hang", "late"):
        Path(os.environ["FINETUNE_WORK_DIR"], "hanging").write_text(str(os.getpid()))
        while not stops:
            time.sleep(0.01)
    if action == "hang":
        emit(stage, "failure", reason="Stopped", message="saved step 1", exitCode=79, step=1)
        return 79
    if action == "crash":
        print("Traceback: something nobody foresaw", file=sys.stderr)
        return 70
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action.startswith("fail:"):
        code = int(action.partition(":")[2])
        emit(
            stage, "failure", reason="Scripted", message=f"told to fail with {code}", exitCode=code
        )
        return code
    if action == "garbage":
        print("a library prints to stdout")
        print('{"half": "an event')
        return 0
    emit(stage, "progress", step=2, totalSteps=2, metrics={"loss": 1.5}, etaSeconds=0)
    result = dict(RESULTS[stage])
    if action == "missed":
        result |= {"goalMet": False, "goalMessage": "exactMatch 0.5 is below 0.8", "version": None}
    if action == "passed":
        result |= {"version": None}
    emit(stage, "result", result=result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
