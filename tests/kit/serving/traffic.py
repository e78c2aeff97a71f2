"""Captured answers and feedback, made by the recorder's own functions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from finetune_trainer.serve.handover import Frame
from finetune_trainer.serve.recorder.feedback import read_entry
from finetune_trainer.serve.recorder.people import hash_person
from finetune_trainer.serve.recorder.scrubbing import make_row
from finetune_trainer.serve.response_ids import make_id
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.places import feedback_key, segment_key
from finetune_trainer.traffic.reading import open_traffic
from finetune_trainer.traffic.rows import Exchange, write_exchange, write_feedback

BEGIN = datetime(2026, 11, 30, 4, 0, tzinfo=UTC)


@dataclass(kw_only=True)
class Recorded:
    """What an endpoint has captured below a folder. Each answer comes a minute after the last."""

    folder: Path
    namespace: str = "team-a"
    endpoint: str = "headlines"
    answers: list[Exchange] = field(default_factory=list)

    @property
    def store(self) -> ObjectStore:
        return open_traffic(self.folder.as_uri(), self.namespace, self.endpoint)

    def answer(self, asked: str | list[dict[str, Any]], text: str = "", **given: Any) -> Exchange:
        """Capture an answer; ``given`` are fields of the request, the message or the choice."""
        time = BEGIN + timedelta(minutes=len(self.answers))
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        message = {"role": "assistant", "content": text or None}
        if "tool_calls" in given:
            message["tool_calls"] = given.pop("tool_calls")
        reason = given.pop("finish_reason", "stop")
        choice = {"index": 0, "message": message, "finish_reason": reason}
        whose = f"{self.namespace}/{self.endpoint}"
        head = {
            "id": make_id(whose, time, is_captured=True),
            "time": given.pop("time", time).isoformat(),
            "namespace": self.namespace,
            "endpoint": self.endpoint,
            "version": 1,
            "sha256": "a" * 64,
            "isError": given.pop("is_error", False),
            "latencySeconds": 0.5,
        }
        request = {"model": self.endpoint, "messages": messages, **given}
        answer = json.dumps({"choices": [choice]}).encode()
        row = make_row(
            Frame(head=head, request=json.dumps(request).encode(), answer=answer),
            lambda _, whose, name: hash_person("key", whose, name),
        )
        key = segment_key(row.time, row.time, num_rows=1, writer="w", number=len(self.answers))
        self.store.write_bytes(key, write_exchange(row))
        self.answers.append(row)
        return row

    def say(
        self, about: Exchange, *, who: str = "ab", time: datetime | None = None, **fields: str
    ) -> None:
        """Give feedback: ``rating``, ``correction`` or ``reason``."""
        entry = read_entry(fields, about, who, time or about.time + timedelta(seconds=30))
        self.store.write_bytes(feedback_key(entry), write_feedback(entry))
