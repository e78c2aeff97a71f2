"""Search of a sweep: suggestions, early stopping, ranking. Pure, standard library only.

``suggesting.suggest`` returns the values of trial n, ``stopping.should_prune`` stops a trial with a
poor curve, ``ranking.rank`` orders the trials. All are functions of the sweep's UID and the reports
of its trials, so they can be repeated.
"""
