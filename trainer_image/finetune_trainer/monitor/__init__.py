"""Watches an endpoint's traffic: is it still what its model was trained and evaluated for?

The statistics, with what they assume: :mod:`finetune_trainer.statistics.drift`.
"""
