"""Equal and nearly equal rows: which are dropped and which stay on one side.

:mod:`finetune_trainer.prepare.rows.normal` defines equal rows. Texts lie on disk; memory holds
digests and numbers.
"""
