"""Layers over devices: ``python -m benchmarks.layers``."""
