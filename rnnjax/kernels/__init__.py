"""Recurrences as kernels of a GPU, behind `rnnjax.Fused`."""
