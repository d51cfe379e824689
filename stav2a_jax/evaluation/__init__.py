"""Scoring folders of generated sound against true ones: ``stav2a evaluate``, ``stav2a tables``; docs/evaluation.md."""
