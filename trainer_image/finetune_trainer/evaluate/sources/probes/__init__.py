"""What both models are asked beyond the held-out rows: what was forgotten, and what is unsafe.

A pack of our own, with the detector of each item, and attacks made from the job's own rows. Why
these and no others: ``docs/adr/0031-harm-is-shown.md``.
"""
