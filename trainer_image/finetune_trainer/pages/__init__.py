"""What all pages for people share: frame, style, tables, pictures, and how they are rendered.

A page is one file that opens anywhere, with nothing to load: its policy forbids every request and
every script but the one it brings.
"""
