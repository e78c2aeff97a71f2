"""A candidate is published once nothing waits any more."""

from __future__ import annotations

from finetune_operator.finetunejob import publishing
from finetune_operator.finetunejob.publishing import Wait, why_publishing_waits
from unit.operator.builders import job, observe


def spec_of(body):
    return observe(body).parsed.spec


def test_nothing_stands_between_evaluation_and_publication_by_default():
    spec = spec_of(job())
    assert spec.publishes_at_once
    assert why_publishing_waits(spec, {}, ()) == ()


def test_everything_that_is_waited_for_is_told(monkeypatch):
    no, yes = Wait(reason="ReviewRequired", message="The panel has not decided."), None
    monkeypatch.setattr(publishing, "_ASKED", (lambda *_: no, lambda *_: yes))
    assert why_publishing_waits(spec_of(job()), {}, ()) == (no,)
