"""A small OpenAI-compatible server over transformers and PEFT, for one CPU or one GPU.

Its routes are vLLM's. Adapters are loaded and unloaded while it runs. Its greedy answers are those
of the evaluation.
"""
