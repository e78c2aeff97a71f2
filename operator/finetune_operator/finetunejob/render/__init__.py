"""Manifests of the objects one FineTuneJob owns. Pure: same input, same bytes."""
