"""Training goes on while its storage is away, and ends in the same adapter."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from kit.processes.eventually import eventually
from kit.processes.stages import Workbench
from kit.servers.faulty_s3 import faulty_s3
from kit.servers.seaweedfs import SeaweedS3


def last_step(workbench: Workbench) -> int:
    """Return the last step that training has logged."""
    lines = workbench.curve.read_text().splitlines() if workbench.curve.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def test_outage_storm_and_rotated_keys_while_training_change_nothing(
    bench: Callable[..., Workbench],
    undisturbed: tuple[Workbench, dict[str, Any]],
    s3: SeaweedS3,
) -> None:
    with faulty_s3(s3.endpoint) as link:
        place = {
            "output": {"uri": s3.new_uri(), "credentialsRef": {"name": "s3-read-write"}},
            "s3": {"endpoint": link.endpoint},
        }
        workbench = bench(place, env={"FINETUNE_CREDENTIALS_DIR": str(s3.credentials_dir)})
        workbench.run_to("prepare")

        def shut_at_the_second_save(method: str, path: str) -> None:
            if method == "PUT" and "/step-6/" in path and link.is_open and not is_shut.is_set():
                is_shut.set()
                link.shut()

        is_shut = threading.Event()
        link.on_request = shut_at_the_second_save
        process = workbench.start("train")
        try:
            eventually(
                lambda: (
                    process.poll() is not None or (is_shut.is_set() and last_step(workbench) == 12)
                ),
                timeout=280,
            )
            assert process.poll() is None, workbench.finish(process).messages
            s3.rotate()
            link.share_of_503 = 0.3
            link.open()
            threading.Timer(3, s3.renew_secret).start()
            run = workbench.finish(process)
        finally:
            process.kill()
            s3.renew_secret()
    assert run.exit_code == 0, run.messages + run.stderr[-2000:]
    assert run.result["sha256"] == undisturbed[1]["sha256"]
    assert "training goes on, what it saves waits on the local disk" in run.messages
    assert "storage answers again after" in run.messages
    assert link.num_refused > 0


def test_run_whose_storage_stays_away_ends_as_a_storage_error(
    bench: Callable[..., Workbench], s3: SeaweedS3
) -> None:
    with faulty_s3(s3.endpoint) as link:
        place = {
            "output": {"uri": s3.new_uri(), "credentialsRef": {"name": "s3-read-write"}},
            "s3": {"endpoint": link.endpoint},
            "hyperparameters": {"maxSteps": 6},
        }
        env = {
            "FINETUNE_CREDENTIALS_DIR": str(s3.credentials_dir),
            "FINETUNE_STORAGE_PATIENCE_SECONDS": "5",
        }
        workbench = bench(place, env=env)
        workbench.run_to("prepare")
        link.on_request = lambda method, path: link.shut() if "/step-3/" in path else None
        run = workbench.run("train")
    assert run.exit_code == 73, run.messages
    assert run.failure["reason"] == "Unreachable"
    message = run.failure["message"]
    assert "lost with this pod: checkpoint of step 3, " in message
    assert "checkpoint of step 6 (" in message
