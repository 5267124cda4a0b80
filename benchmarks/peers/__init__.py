"""Training and inference beside other libraries: ``python -m benchmarks.peers``."""
