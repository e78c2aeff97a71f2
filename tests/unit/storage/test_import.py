"""The package is cheap to import: the CLI uses it."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys
before = set(sys.modules)
import finetune_trainer.storage, finetune_trainer.storage.models.cache
print(json.dumps(sorted(set(sys.modules) - before)))
"""
MAX_MODULES = 100
"""Some 85 are, twenty of them ours; an HTTP client alone would bring thirty more."""


def test_import_brings_no_library_and_little_of_the_standard_one():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = json.loads(run.stdout)
    packages = {name.partition(".")[0] for name in modules}
    assert packages - set(sys.stdlib_module_names) == {"finetune_trainer"}
    assert len(modules) <= MAX_MODULES
