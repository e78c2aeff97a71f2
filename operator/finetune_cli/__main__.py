"""Entry point of ``finetune`` and ``kubectl-finetune``."""

from __future__ import annotations

import sys

from finetune_cli.app import app
from finetune_cli.errors import CliError


def main() -> None:
    """Run the command line; errors become one message and an exit code."""
    try:
        app()
    except CliError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output left (`| head`): not our failure.
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
