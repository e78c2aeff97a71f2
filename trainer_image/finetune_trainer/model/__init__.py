"""Loading base models, choosing precision, putting adapters on."""
