"""What a newer operator has written is repeated: left out, server-side apply would remove it."""

from __future__ import annotations

from finetune_operator.finetunejob.state.draft import JobDraft
from kit.builders.jobs import NOW, job


def test_fields_and_stages_of_a_newer_version_are_written_again():
    newer = {
        "outlook": {"score": "0.9"},
        "stages": [{"name": "publish", "job": "headlines-publish", "lane": "fast"}],
        "attempts": {"total": 1, "ahead": 3},
        "progress": {"stage": "train", "percent": 5},
    }
    draft = JobDraft({**job(), "status": newer}, NOW)
    draft.put("phase", "Training")
    wire = draft.to_wire()
    assert wire is not None
    assert {key: wire[key] for key in ("outlook", "stages", "attempts")} == {
        key: newer[key] for key in ("outlook", "stages", "attempts")
    }
    # The pushes' own, which is known, is left to them.
    assert "progress" not in wire
