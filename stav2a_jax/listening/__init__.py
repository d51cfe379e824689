"""The listening test of the paper's Table II: a blind page for raters (``build``) and the scores (``score``).

Protocol, commands and how to read the numbers: docs/listening.md.
"""
