"""Unrolling by a CPU kernel that is compiled from a cell's traced gates."""
