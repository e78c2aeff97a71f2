"""The shared parts of all pages for people: frame, style, tables, pictures, rendering.

A page is one file; its policy forbids all requests and foreign scripts.
"""
