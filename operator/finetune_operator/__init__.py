"""The operator of the FineTuneJob kind: hosted by kopf, level-triggered, server-side applied."""
