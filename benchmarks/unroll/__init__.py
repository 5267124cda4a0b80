"""Static unrolling against scan: ``python -m benchmarks.unroll``."""
