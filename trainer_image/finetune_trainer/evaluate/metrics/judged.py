"""What a judge says of each answer, brought to 0 to 1."""

from __future__ import annotations

from finetune_trainer.evaluate.metrics.answers import Answers, Measured, mean_of


def judged_as(metric: str, answers: Answers) -> Measured:
    """Return the mean of what a judge gave, over questions that have all got something.

    Args:
        metric: ``judgeWinRate`` or ``judgeScore``.
        answers: What the model said, with the judge's scores.
    """
    assert answers.judged is not None
    return mean_of(answers.judged[metric])
