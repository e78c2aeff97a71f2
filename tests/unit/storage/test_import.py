"""The package is cheap to import: the CLI uses it."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = {"torch", "transformers", "boto3", "botocore", "huggingface_hub", "pydantic", "filelock"}
PROGRAM = """
import json, sys, time
started = time.process_time()
import finetune_trainer.storage, finetune_trainer.storage.model_cache
seconds = time.process_time() - started
print(json.dumps([seconds, sorted(sys.modules)]))
"""


def test_import_brings_no_client_library_and_takes_little_time():
    runs = []
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(json.loads(run.stdout))
    assert not HEAVY & set(runs[0][1])
    # 0.03 s alone; processor time, too, grows several times on a busy machine
    assert min(seconds for seconds, _ in runs) < 0.2
