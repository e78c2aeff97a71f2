"""``python -m kit.serving.hurried front|recorder``: the process with shorter times and less room.

``HURRIED`` is a JSON object of constants: ``{"recorder.retention.SEGMENT_SECONDS": 0.2}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

VARIABLE = "HURRIED"
PACKAGE = "finetune_trainer"


def main() -> int:
    for name, value in json.loads(os.environ[VARIABLE]).items():
        module, _, constant = name.rpartition(".")
        found = importlib.import_module(f"{PACKAGE}.{module}")
        assert hasattr(found, constant), name
        setattr(found, constant, value)
    from finetune_trainer.serve.__main__ import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
