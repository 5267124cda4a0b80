"""Lets these tests use the cells of those of unrolling."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "unrolling"))
