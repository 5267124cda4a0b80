"""A whole training job beside PyTorch's: ``python -m benchmarks.whole_job``."""
