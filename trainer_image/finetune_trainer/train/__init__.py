"""Stage ``train``: the parent (no torch) in ``stage``, the ranks in ``ranks``."""
