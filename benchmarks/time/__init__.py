"""Sequences over their length: ``python -m benchmarks.time``."""
