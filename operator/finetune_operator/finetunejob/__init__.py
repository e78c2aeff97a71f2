"""Decisions about one FineTuneJob: snapshot in, plan out. No I/O, no clock, no randomness.

``plan`` is the door; ``walk`` takes the stages in order; each other room answers one question and
writes its decisions into the :class:`~finetune_operator.finetunejob.state.step.Step`.
"""
