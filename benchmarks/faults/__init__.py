"""Faults put into real runs: ``python -m benchmarks.faults``."""
