"""SmolLM2-135M, the real model that tests train."""

from base_model import NAME, ensure_model

__all__ = ["NAME", "ensure_model"]
