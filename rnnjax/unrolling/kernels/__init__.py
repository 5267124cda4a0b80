"""The methods that are kernels for GPUs, `Pallas` and `CuDNN`, one file each, and what the first is made of."""
