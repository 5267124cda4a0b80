"""The code of the README and of the guide passes the type checker: what they show may be written by everybody."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_guide import PAGES, ROOT, blocks

LINEN = "FrozenVariableDict"  # by Flax's own types, what a Linen module gives may come with variables


def check(folder):
    """Returns the type checker's errors for the files of a folder, without lines on which Flax's own types fail."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
    if not told.startswith("{"):
        pytest.skip("pyright cannot be run here")
    errors = json.loads(told)["generalDiagnostics"]
    place = lambda error: (Path(error["file"]).stem, error["range"]["start"]["line"])  # noqa: E731
    theirs = {place(error) for error in errors if LINEN in error["message"]}
    return [(*place(error), error["message"]) for error in errors if place(error) not in theirs]


# What the code does is run by other tests; the checker takes as long as ten of them.
@pytest.mark.thorough
def test_the_code_of_the_documents_passes_the_type_checker(tmp_path):
    for page in (ROOT / "README.md", *PAGES):
        (tmp_path / f"{page.stem}.py").write_text("\n".join(block.code for block in blocks(page.read_text())))
    (tmp_path / "wrong.py").write_text("import rnnjax\n\nrnnjax.LSTM('eight')\n")
    assert [place for place, *_ in check(tmp_path)] == ["wrong"]
