"""The published version as an evaluation needs it: what is told of it, and what it is asked."""

from __future__ import annotations

from finetune_api.protocol.evaluation_result import PublishedVersion
from finetune_trainer.context import StageContext
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.sources.champion.seen import tell_seen
from finetune_trainer.evaluate.sources.champion.version import (
    AskedPublished,
    find_published,
    ready_to_ask,
)
from finetune_trainer.model.chat_format import ChatFormat


def gather_published(
    context: StageContext,
    questions: list[Question],
    own: ChatFormat,
    *,
    revision: str,
    room: int | None,
) -> tuple[PublishedVersion | None, AskedPublished | None]:
    """Find the published version, and count which of the questions it was trained on.

    Args:
        context: The stage's view of the world.
        questions: The held-out questions.
        own: This job's chat format.
        revision: Resolved revision of the base model.
        room: Tokens that the base model takes; None where nobody knows.

    Returns:
        What is told of it, None where no gate asks for it; and what it is asked, None where there
        is nothing to ask.

    Raises:
        StorageError: Storage failed.
    """
    found = find_published(context, revision=revision)
    found, asked = ready_to_ask(context, found, questions, own, room=room)
    return tell_seen(context, found, questions), asked
