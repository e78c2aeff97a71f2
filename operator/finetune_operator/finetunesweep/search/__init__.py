"""Which settings to try next, which trial to stop, which one won. Pure, standard library only.

``suggesting.suggest`` names the values of trial n, ``stopping.should_prune`` stops a trial whose
curve is hopeless, ``ranking.rank`` orders the trials. All three are functions of the sweep's UID
and of what its trials say of themselves, so that they can be asked again at any moment.
"""
