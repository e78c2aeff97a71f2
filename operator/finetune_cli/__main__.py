"""Entry point of ``finetune`` and ``kubectl-finetune``."""

from __future__ import annotations

import sys

from finetune_cli.errors import CliError
from finetune_cli.exits import STOPPED


def main() -> None:
    """Run the command line; errors become one message and an exit code."""
    try:
        # Late: Ctrl-C may come during the import.
        from finetune_cli.app import app

        app()
    except CliError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("error: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:
        # The reader of our output ended (`| head`): not our failure.
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
