"""Intervals, tests and numbers of rows for measured scores. Pure.

Rows of one cluster are dependent, so clusters are counted. Reasons:
``docs/adr/0026-bounds-that-hold.md``; coverage: ``benchmarks/results/evidence.md``.
"""
