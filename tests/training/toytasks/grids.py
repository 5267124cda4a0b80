"""Grids of small runs, as flags say them."""

from pathlib import Path

from rnnjax.training.sweeps.grid import Grid, read_grid

TOY = str(Path(__file__).parent / "config.py")
SMALL = ["--config", TOY, "--config.epochs=2", "--config.examples=24", "--config.log_every=2"]


def grid_of(*arguments: str, seeds: int = 1, at_once: int | None = None) -> Grid:
    return read_grid([*SMALL, *arguments], seeds, at_once)[0]
