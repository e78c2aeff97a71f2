"""Scores of answers against references, by the names of ``goal.metric``. Pure.

:mod:`~finetune_trainer.evaluate.metrics.catalog` knows all of them; what one measures and where it
comes from stands in the module that computes it.
"""
