"""Unrolling methods that are GPU kernels, `Pallas` and `CuDNN`, one file each, and the parts of `Pallas`."""
