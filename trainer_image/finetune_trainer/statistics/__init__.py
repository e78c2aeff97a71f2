"""What measured scores allow to be said: intervals, tests and numbers of rows. Pure.

Rows of one cluster (one customer, one prompt with its twins) are not independent: everything here
is told which rows belong together, and counts clusters. Why these methods:
``docs/adr/0026-bounds-that-hold.md``; how often they hold: ``benchmarks/results/evidence.md``.
"""
