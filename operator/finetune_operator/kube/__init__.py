"""A small Kubernetes runtime on asyncio: client, informer, work queue, appliers, elector.

It exists because no Python library offers these parts together at the cost a controller for
thousands of objects needs. It knows nothing of fine-tuning and nothing of kopf; it could be a
library of its own.

Invariants:

* Objects are plain dicts straight from one ``orjson`` parse. Whoever gets one from a cache may
  keep it and must not change it.
* Everything runs on one event loop; nothing blocks; no class is thread-safe.
* Time enters through ``Clock``, randomness through an injected ``random.Random``.
"""
