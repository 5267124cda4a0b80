"""The tasks and runs that the tests of training are made of serve here too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "training"))
