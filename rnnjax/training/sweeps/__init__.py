"""Sweeps: the runs of a grid, trained in groups that share a program, and their results."""
