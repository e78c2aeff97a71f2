"""Exit codes of the CLI itself; a failed stage's code passes through unchanged.

The trainer protocol is not imported here, because ``finetune --help`` must be fast.
"""

from __future__ import annotations

OK = 0
NOT_MET = 1
"""The work was done and the answer is no: goal missed, file invalid, job failed."""
USER_ERROR = 64
"""As ``ExitCode.USER_ERROR``: the command or a file is wrong."""
STORAGE = 73
"""As ``ExitCode.STORAGE``."""
STOPPED = 79
"""As ``ExitCode.STOPPED``: Ctrl-C, or another signal that asks to stop."""
