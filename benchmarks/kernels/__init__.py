"""Recurrences as kernels on a GPU: ``python -m benchmarks.kernels``."""
