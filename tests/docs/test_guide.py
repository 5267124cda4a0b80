"""The pages of the guide, and the README, run as they stand and print what they show."""

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from fixtures.thorough import main_of

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"
PAGES = sorted(GUIDE.glob("[0-9]*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[-+]?\d+)?")


class Block(NamedTuple):
    """A block of code, the line it starts at, and the output shown behind it."""

    code: str
    line: int
    shown: str


def blocks(text):
    """Returns the python blocks of a page, each with the text block that follows it, if one does."""
    found = []
    for fence in FENCE.finditer(text):
        language, body = fence.groups()
        if language == "python":
            found.append(Block(body, text[: fence.start(2)].count("\n"), ""))
        elif language == "text":
            assert found, f"a text block without code before it: {body}"
            assert not found[-1].shown, f"two text blocks behind one of code: {body}"
            found[-1] = found[-1]._replace(shown=body)
    return found


def unit(number):
    """Returns one unit in the last place of a number as it is written."""
    mantissa, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def is_as_shown(printed, shown):
    """Returns whether two outputs agree, but for white space and one unit in the last place of a fraction."""
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", shown).split():
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    slack = [(a, b, 1.01 * unit(b) if "." in b or "e" in b else 0.0) for a, b in pairs]
    return all(abs(float(a) - float(b)) <= allowed for a, b, allowed in slack)


def run(page):
    namespace = {"__name__": f"guide_{page.stem}"}
    for block in blocks(page.read_text()):
        # Blank lines in front, so that a traceback gives the line of the page.
        program = compile("\n" * block.line + block.code, str(page), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(program, namespace)
        assert is_as_shown(printed.getvalue(), block.shown), (
            f"{page.name}, line {block.line}: printed\n{printed.getvalue()}but shows\n{block.shown}"
        )


# Pages for one who has read the others, of what has tests of its own.
LATER = (8, 9, 10, 12, 14, 15, 18, 19, 21, 22, 23)
MAIN = [ROOT / "README.md", *(page for page in PAGES if int(page.stem[:2]) not in LATER)]


@pytest.mark.parametrize("page", main_of([*PAGES, ROOT / "README.md"], MAIN), ids=lambda page: page.stem)
def test_every_block_of_a_page_runs_and_prints_what_is_shown(page):
    run(page)


def test_the_index_names_every_page_once_and_in_order():
    assert re.findall(r"\]\(([^)]*)\)", (GUIDE / "README.md").read_text()) == [page.name for page in PAGES]


def test_the_site_names_every_document():
    nav = re.findall(r"^ +- (?:[^:\n]*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(nav) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_short_and_say_what_to_notice(page):
    text = page.read_text()
    assert len(text.splitlines()) <= 125
    assert "\n## What to notice\n" in text
    assert blocks(text)


@pytest.mark.parametrize(
    ("printed", "shown", "agrees"),
    [
        ("a  1.24\n", "a 1.25", True),
        ("1.23", "1.25", False),
        ("3e-07", "2e-07", True),
        ("(4, 5)", "(4, 6)", False),
        ("[1. 1.]", "[1. 1. 1.]", False),
        ("loss 1", "lost 1", False),
        ("1", "", False),
    ],
)
def test_outputs_are_compared_by_their_words_and_to_the_last_place_of_their_fractions(printed, shown, agrees):
    assert is_as_shown(printed, shown) == agrees
