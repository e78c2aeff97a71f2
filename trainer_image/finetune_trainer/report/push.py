"""Progress pushes to the operator, in the wire format of transformers' KubeflowCallback.

A background thread sends the newest state every few seconds; failures are only counted. The body
has our ``finetune`` member beside ``trainerStatus``. Source:
transformers.integrations.KubeflowCallback; Kubeflow Trainer KEP-2779.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_api.protocol.stage_results import decimal_text
from finetune_api.protocol.trainer import Environment, Event

MIN_INTERVAL_SECONDS = 5.0
TIMEOUT_SECONDS = 5.0


class ProgressPush:
    """Sends the newest progress of one stage to one URL."""

    def __init__(self, url: str, *, token_file: Path | None, ca_file: Path | None) -> None:
        self._url = url
        self._token_file = token_file
        self._context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
        self._pending: dict[str, Any] | None = None
        self._plan: dict[str, Any] | None = None
        self._validation: dict[str, Any] | None = None
        self._wake = threading.Condition()
        self._closed = False
        self.num_sent = 0
        self.num_failed = 0
        self.last_error = ""
        self._thread = threading.Thread(target=self._run, name="progress-push", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls) -> ProgressPush | None:
        """Return a push when the environment names a server, else None."""
        url = os.environ.get(Environment.PROGRESS_URL)
        if not url:
            return None
        token = os.environ.get(Environment.PROGRESS_TOKEN_FILE)
        ca_file = os.environ.get(Environment.PROGRESS_CA_FILE)
        return cls(
            url,
            token_file=Path(token) if token else None,
            ca_file=Path(ca_file) if ca_file and Path(ca_file).exists() else None,
        )

    def set_plan(self, plan: dict[str, Any]) -> None:
        """Send this with every progress from now on: any one of them may get lost."""
        self._plan = plan

    def set_validation(self, validation: dict[str, Any]) -> None:
        """Send this with every progress until there is a newer one."""
        self._validation = validation

    def update(self, event: Event) -> None:
        """Remember the newest progress; the thread sends it when its time has come."""
        status: dict[str, Any] = {"lastUpdatedTime": datetime.now(UTC).isoformat()}
        if event.percent is not None:
            status["progressPercentage"] = event.percent
        if event.eta_seconds is not None:
            status["estimatedRemainingSeconds"] = event.eta_seconds
        if event.metrics:
            status["metrics"] = [
                {"name": name, "value": decimal_text(value)}
                for name, value in event.metrics.items()
            ]
        own: dict[str, Any] = {"stage": str(event.stage)}
        if event.step is not None:
            own.update(step=event.step, totalSteps=event.total_steps)
        if event.epoch is not None:
            own["epoch"] = f"{event.epoch:.2f}"
        if self._plan is not None:
            own["plan"] = self._plan
        if self._validation is not None:
            own["validation"] = self._validation
        with self._wake:
            self._pending = {"trainerStatus": status, "finetune": own}
            self._wake.notify()

    def finish(self, *, is_done: bool) -> None:
        """Send the pending state and stop, within seconds. A success pushes 100 percent."""
        with self._wake:
            if is_done:
                body = self._pending or {
                    "trainerStatus": {"lastUpdatedTime": datetime.now(UTC).isoformat()},
                    "finetune": {},
                }
                body["trainerStatus"]["progressPercentage"] = 100
                self._pending = body
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=2 * TIMEOUT_SECONDS)

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._pending is None and not self._closed:
                    self._wake.wait()
                body, self._pending = self._pending, None
                closed = self._closed
            if body is not None:
                self._send(body)
            if closed:
                return
            with self._wake:
                self._wake.wait_for(lambda: self._closed, timeout=MIN_INTERVAL_SECONDS)

    def _send(self, body: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json"}
        try:
            if self._token_file is not None:
                headers["Authorization"] = f"Bearer {self._token_file.read_text().strip()}"
            request = urllib.request.Request(  # noqa: S310 - the operator set this URL
                self._url, data=json.dumps(body).encode(), headers=headers, method="POST"
            )
            with urllib.request.urlopen(  # noqa: S310
                request, timeout=TIMEOUT_SECONDS, context=self._context
            ):
                self.num_sent += 1
        except (OSError, ValueError) as error:
            self.num_failed += 1
            self.last_error = str(error)
