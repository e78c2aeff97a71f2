"""Puts answers to the judge, several at a time, until all are judged or a cap is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_trainer.evaluate.sources.judge.endpoint import CallRefused, Reply
from finetune_trainer.evaluate.sources.judge.replies import Kept, KeptReplies, digest_of_call
from finetune_trainer.evaluate.sources.judge.spending import Spent, most_input_tokens

ROUND_CALLS = 4
"""Calls of a round for each that may be under way: verdicts are kept after a round."""


class Endpoint(Protocol):
    """Whoever answers."""

    def ask(self, content: str) -> Reply:
        """Return the reply to one question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the judge was asked and has said.

    Attributes:
        replies: Of each row, the reply to each of its questions; shorter than the rows where a cap
            was reached.
        spent: What the run has paid, all attempts together.
    """

    replies: Sequence[Sequence[Kept]]
    spent: Spent


def ask_judge(
    judge: Judge,
    rows: Sequence[Sequence[str]],
    endpoint: Endpoint,
    kept: KeptReplies,
    *,
    tell: Callable[[str], object],
) -> Asked:
    """Ask all questions of each row, in their order, as far as the caps allow.

    Args:
        judge: The job's ``spec.evaluation.judge``.
        rows: Of each row its questions.
        endpoint: The judge.
        kept: Replies of earlier attempts; new ones are added and stored.
        tell: Called with a message for people as tenths of the rows are done.

    Raises:
        JudgeAway: The judge stayed away; what it had said is stored.
        JudgeRefuses: It refuses every call; the same.
    """
    digests = [[digest_of_call(judge, content) for content in row] for row in rows]
    done = 0
    with ThreadPoolExecutor(judge.concurrency) as pool:
        try:
            for size in _rounds(judge, rows, digests, kept):
                todo = {
                    digest: content
                    for row in range(done, done + size)
                    for digest, content in zip(digests[row], rows[row], strict=True)
                    if digest not in kept.replies
                }
                calls = [
                    pool.submit(_ask, judge, endpoint, kept, digest, content)
                    for digest, content in todo.items()
                ]
                for call in calls:
                    call.result()
                kept.write()
                if 10 * (done + size) // len(rows) > 10 * done // len(rows):
                    tell(f"{done + size} of {len(rows)} questions are judged")
                done += size
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            kept.write()
            raise
    return Asked(
        replies=[[kept.replies[digest] for digest in row] for row in digests[:done]],
        spent=Spent.on(kept.replies.values()),
    )


def _rounds(
    judge: Judge, rows: Sequence[Sequence[str]], digests: Sequence[Sequence[str]], kept: KeptReplies
) -> Iterator[int]:
    """Yield how many rows may be asked next; ends with the rows, or with a cap."""
    done = 0
    while done < len(rows):
        spent = Spent.on(kept.replies.values())
        size, contents = 0, dict[str, str]()
        while done + size < len(rows) and len(contents) < ROUND_CALLS * judge.concurrency:
            row = done + size
            more = {
                digest: content
                for digest, content in zip(digests[row], rows[row], strict=True)
                if digest not in kept.replies
            }
            if more and not spent.and_at_most(judge, {**contents, **more}.values()).is_within(
                judge
            ):
                break
            contents.update(more)
            size += 1
        if not size:
            return
        yield size
        done += size


def _ask(judge: Judge, endpoint: Endpoint, kept: KeptReplies, digest: str, content: str) -> None:
    try:
        reply = endpoint.ask(content)
    except CallRefused as refused:
        kept.add(digest, Kept(text=None, why=str(refused)))
        return
    # Who does not count is taken to have charged the most.
    read, written = reply.input_tokens, reply.output_tokens
    kept.add(
        digest,
        Kept(
            text=reply.text,
            input_tokens=most_input_tokens(content) if read is None else read,
            output_tokens=judge.max_answer_tokens if written is None else written,
        ),
    )
