"""People compare the answers of base and tuned model without knowing which is which.

Pure but for :mod:`finetune_trainer.evaluate.sources.review.files`: which questions are shown, what
a reviewer sees of them, what was judged, how far the reviewers agree. Why it is done so:
``docs/adr/0028-a-review-that-is-blind.md``.
"""
