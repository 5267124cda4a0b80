"""Random and damaged data files: read, or refused in one sentence."""

import warnings
import zipfile

import pytest
from fixtures.random_cases import fuzz, refuses_cleanly, words
from hypothesis import given
from hypothesis import strategies as st

from rnnjax.config_group import freeze, from_dict, to_dict
from rnnjax.data.click_rows import read_click_rows
from rnnjax.data.clicks import read_clicks
from rnnjax.data.own.columns import Columns
from rnnjax.data.own.sequences import Cuts, load_sequences
from rnnjax.data.own.series import Wanted, load_series
from rnnjax.data.own.windows import Sizes
from rnnjax.data.text import load_own_text
from rnnjax.data.translation import load_pairs
from rnnjax.data.word_vectors import read_word_vectors
from rnnjax.tasks import build_task, language_model, navigation, translate, word2vec
from rnnjax.training.engine import training_schedule

pytestmark = pytest.mark.usefixtures("only_arguments_and_data")


lines = st.lists(st.lists(words, max_size=4).map("\t".join) | st.lists(words, max_size=4).map(",".join), max_size=15)
contents = st.binary(max_size=60) | lines.map(lambda found: "\n".join(found).encode("utf-8", "replace"))
headers = st.builds("{} {}\n".format, words, words).map(lambda text: text.encode("utf-8", "replace"))


@fuzz
@given(contents, headers)
def test_any_content_of_a_data_file_is_taken_or_refused(folder, content, header):
    file = folder / "data.txt"
    file.write_bytes(content)
    refuses_cleanly(lambda: load_own_text(str(file)))
    refuses_cleanly(lambda: load_pairs("tsv", str(file)))
    refuses_cleanly(lambda: read_clicks([file]))
    refuses_cleanly(lambda: read_word_vectors(file))
    file.write_bytes(header + content)
    refuses_cleanly(lambda: read_word_vectors(file))


OWN_DATA = {language_model: "text", word2vec: "text", translate: "tsv", navigation: "yoochoose"}


@fuzz
@given(st.sampled_from(sorted(OWN_DATA, key=str)), contents, st.integers(1, 200))
def test_a_task_is_built_of_any_data_or_refuses_it(folder, task, content, times):
    (folder / "data.txt").write_bytes(content * times)
    values = to_dict(task.Config(batch_size=2))
    values["data"] |= {"name": OWN_DATA[task], "path": str(folder / "data.txt")}
    values |= {"min_count": 1} if task is word2vec else {}

    def plan():
        config = freeze(from_dict(task.Config, values))
        training_schedule(build_task(config), config)

    refuses_cleanly(plan)


OWN_COLUMNS = st.sampled_from(["id", "time", "date", "label", "a", "b", "1", ""])
OWN_CELLS = st.sampled_from(["", "0", "1", "2.5", "-3", "1e308", "nan", "inf", "1,5", "2024-01-31", "x", '"', "é"])
OWN_ROWS = st.lists(st.lists(OWN_CELLS, min_size=2, max_size=4), max_size=30)


@st.composite
def tables(draw):
    """Csv files that are nearly right, with a separator, some rows of other lengths, and bytes that may be no text."""
    width, separator = draw(st.integers(2, 4)), draw(st.sampled_from(",;\t"))
    rows = [draw(st.lists(OWN_COLUMNS, min_size=width, max_size=width)), *draw(OWN_ROWS)]
    rows = [row if draw(st.integers(0, 9)) == 0 else (row * 2)[:width] for row in rows]
    return "\n".join(map(separator.join, rows)).encode(draw(st.sampled_from(["utf-8", "latin-1"])))


@fuzz
@given(tables() | contents, st.sampled_from([".csv", ".npz", ".npy"]), st.booleans())
def test_data_of_ones_own_is_taken_or_refused(folder, content, suffix, every_step):
    file = folder / f"data{suffix}"
    file.write_bytes(content)
    refuses_cleanly(lambda: load_sequences(str(file), Columns(), Cuts(0.2, 0.2), every_step=every_step, scale=True))
    refuses_cleanly(lambda: load_series(str(file), Wanted(), Sizes(2, 1, 1, 0.3, 0.3)))
    refuses_cleanly(lambda: read_click_rows(file, file))


@fuzz
@given(
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
    st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=4)), max_size=4),
)
def test_a_damaged_archive_is_taken_or_refused(folder, compression, changes):
    file = folder / "pairs.zip"
    with zipfile.ZipFile(file, "w", compression=compression) as archive:
        archive.writestr("pairs.txt", "".join(f"word {i}\tmot {i}\n" for i in range(30)))
    content = bytearray(file.read_bytes())
    for place, value in changes:
        at = place % len(content)
        content[at : at + len(value)] = value
    file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that an archive has twice
        refuses_cleanly(lambda: load_pairs("tsv", str(file)))
