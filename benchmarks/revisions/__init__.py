"""Programs of two revisions: ``python -m benchmarks.revisions``."""
