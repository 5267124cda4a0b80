"""Recurrences as kernels of their own, behind `Fused`: one file a backend, and the choice among them."""
