"""Rows that say the same: equal and nearly equal prompts, what is dropped and what stays together.

``signatures`` and ``bands`` find pairs of prompts that may be nearly equal, ``similarity`` judges a
pair, ``near`` does both over all prompts, ``clusters`` keeps rows together, ``removal`` leaves rows
out and ``conflicts`` finds one question with two labels; ``comparing`` does all of it in order.
When rows are equal is said in :mod:`finetune_trainer.prepare.rows.normal`. Texts lie on disk
(:mod:`finetune_trainer.prepare.rows.spool`); in memory there are digests and numbers.
"""
