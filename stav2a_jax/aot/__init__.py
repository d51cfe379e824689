"""Ahead-of-time compile report: programs compiled for devices that are not here, and what can be read from them."""
