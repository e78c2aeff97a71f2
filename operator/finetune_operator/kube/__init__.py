"""A small Kubernetes runtime on asyncio: client, informer, work queue, appliers, elector.

It depends neither on fine-tuning nor on kopf. Objects are plain dicts from one ``orjson`` parse;
objects from a cache must not be changed. Everything runs on one event loop: nothing blocks, and no
class is thread-safe. Time comes from ``Clock`` and randomness from an injected ``random.Random``.
"""
