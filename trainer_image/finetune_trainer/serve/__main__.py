"""``python -m finetune_trainer.serve front|recorder|agent|engine``: how versions are served."""

from __future__ import annotations

import argparse
import importlib
import sys

MODULES = {
    "front": "finetune_trainer.serve.front.server",
    "recorder": "finetune_trainer.serve.recorder.server",
    "agent": "finetune_trainer.serve.agent.server",
    "engine": "finetune_trainer.serve.engine.server",
}
"""Each has ``configure(parser)`` if it takes options, and ``run(arguments)``."""
PURPOSES = {
    "front": "answer OpenAI requests of one namespace, by the versions in rotation",
    "recorder": "store captured answers without personal data, and feedback on them",
    "agent": "load versions into the engine beside it, verify them, and pass on requests",
    "engine": "serve a base model and its adapters with Transformers",
}


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run one process; return its exit code."""
    given = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m finetune_trainer.serve", description=__doc__)
    commands = parser.add_subparsers(dest="process", required=True)
    # Only the chosen module is imported: the front starts without torch.
    chosen = next((each for each in given if each in MODULES), None)
    for name, purpose in PURPOSES.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        if name == chosen:
            configure = getattr(importlib.import_module(MODULES[name]), "configure", None)
            if configure is not None:
                configure(command)
    arguments = parser.parse_args(given)
    code: int = importlib.import_module(MODULES[arguments.process]).run(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
