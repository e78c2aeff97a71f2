"""Several runs side by side: what differs in them, which differences are real, and a page of it.

Everything but the page's template is pure: documents of runs go in, values come out. No torch.
"""
