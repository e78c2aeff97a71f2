"""Puts questions to models: transformers in worker processes, or a vLLM server."""
