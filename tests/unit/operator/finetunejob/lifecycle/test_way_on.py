"""A job that has failed says how to begin again, however long its message is."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from kit.builders.jobs import CONFIG, at, child, failed, job, observe, pod

WAY_ON = " To begin again: finetune retry headlines -n team-a"


@pytest.mark.parametrize("text", ["no bucket", "no bucket.", "x" * 5000])
def test_the_message_of_a_failed_job_ends_with_the_way_on(text):
    body = job()
    ended = {"terminated": {"exitCode": 70, "reason": "Error", "message": text}}
    observed = observe(
        body,
        jobs={Stage.PREPARE: child(Stage.PREPARE, status=failed())},
        pods={Stage.PREPARE: (pod(Stage.PREPARE, phase="Failed", state=ended),)},
    )
    made = plan(observed, at(100), CONFIG)
    told = {item["type"]: item for item in made.status["conditions"]}
    for kind in ("Failed", "Stalled"):
        assert told[kind]["status"] == "True"
        message = told[kind]["message"]
        assert message.endswith(f".{WAY_ON}")
        assert not message.removesuffix(WAY_ON).endswith(("t..", "...."))
        assert len(told[kind]["message"]) <= 1024
    (event,) = [event for event in made.events if event.reason == "Failed"]
    assert event.message.endswith(WAY_ON)
    assert WAY_ON not in made.status["lastFailure"]["message"]
