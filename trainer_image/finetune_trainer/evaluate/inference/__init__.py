"""Inference engines behind one interface, :mod:`.engine`, and the workers that ask them."""
