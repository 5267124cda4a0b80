"""Sequences of one's own: what is read, what is refused and how that is said, and that no split learns of another."""

import numpy as np
import pytest

from rnnjax.data.own.columns import Columns, found_columns
from rnnjax.data.own.sequences import UNKNOWN, Cuts, Reading, load_sequences
from rnnjax.data.own.table import read_table
from rnnjax.errors import ConfigError, DataError

COLUMNS, CUTS = Columns(), Cuts(0.2, 0.2)
HEAD = "id,time,a,b,label\n"


def rows(count=10, steps=3, **changes):
    """A csv file in long form of sequences whose features are 10 times their number, plus the time."""
    lines = [f"s{i},{t},{10 * i + t},{-i},{'xy'[i % 2]}" for i in range(count) for t in range(steps)]
    for row, text in changes.items():
        index = int(row.removeprefix("row")) - 2  # as a spreadsheet counts: the header is row 1
        lines[index : index + 1] = [text]
    return HEAD + "\n".join(lines) + "\n"


@pytest.fixture
def load(tmp_path):
    def loaded(content, name="data.csv", columns=COLUMNS, cuts=CUTS, every_step=False, compressed=False, **options):
        file = tmp_path / name
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif isinstance(content, str):
            file.write_text(content, encoding="utf-8")
        elif isinstance(content, dict):
            (np.savez_compressed if compressed else np.savez)(file, **content)
        else:
            np.save(file, content)
        return load_sequences(str(file), columns, cuts, every_step=every_step, scale=True, **options)

    return loaded


def shapes(own):
    return {split: fields["inputs"].shape for split, fields in own.data.splits.items()}


# Reading


@pytest.mark.parametrize(
    "content",
    [
        rows(),
        rows().replace("\n", "\r\n"),
        "\ufeff" + rows(),
        rows().replace(",", ";"),
        rows().replace(",", "\t"),
        rows().replace("label", " class ").replace("s3,", '"s3",').replace("\ns4,0", "\n\n\ns4,0"),
        HEAD + "".join(sorted(rows().removeprefix(HEAD).splitlines(keepends=True), reverse=True)),
    ],
    ids=["commas", "line ends", "a mark", "semicolons", "tabs", "quotes, spaces, empty rows", "in another order"],
)
def test_tables_that_say_the_same_are_the_same_data(load, content):
    wanted, own = load(rows()), load(content)
    assert shapes(own) == {"train": (6, 3, 2), "validation": (2, 3, 2), "test": (2, 3, 2)}
    for split, fields in own.data.splits.items():
        for name, values in wanted.data.splits[split].items():
            np.testing.assert_array_equal(np.sort(fields[name], axis=0), np.sort(values, axis=0))
    assert (own.reading.classes, own.reading.scaling.names) == (("x", "y"), ("a", "b"))


def test_arrays_say_what_a_table_says(load):
    values = 10.0 * np.arange(10)[:, None, None] + np.arange(3)[:, None]
    labels, lengths = np.arange(10) % 2, np.array([3, 2] * 5)
    padded = load({"x": values, "y": labels, "lengths": lengths}, "data.npz")
    ragged = np.concatenate([each[:length] for each, length in zip(values, lengths)])
    behind = load({"inputs": ragged, "labels": labels.astype(float), "lengths": lengths}, "data.npz")
    flat = load({"x": ragged[:, 0], "y": labels, "lengths": lengths}, "data.npz")
    table = "".join(
        f"{i},{t},{values[i, t, 0]},{labels[i]}\n" for i, length in enumerate(lengths) for t in range(length)
    )
    for other in (behind, flat, load("id,t,a,y\n" + table)):
        for split, fields in padded.data.splits.items():
            for name, expected in fields.items():
                np.testing.assert_array_equal(other.data.splits[split][name], expected, name)
    assert padded.reading.classes == ("0", "1")
    np.testing.assert_array_equal(np.sort(padded.data.splits["train"]["length"]), [2, 2, 2, 3, 3, 3])


def test_labels_lie_beside_an_npy_array(load, tmp_path):
    np.save(tmp_path / "data_labels.npy", np.array(["a", "b"] * 5))
    own = load(np.zeros((10, 4), np.float32) + np.arange(10)[:, None], "data.npy")
    assert (shapes(own)["train"], own.reading.classes) == ((6, 4, 1), ("a", "b"))


def test_a_label_at_every_step_may_be_missing(load):
    text = "id,t,a,tag\n" + "".join(
        f"{i},{t},{t},{'' if t == 1 else ['no', 'yes'][t % 2]}\n" for i in range(10) for t in range(3 + i % 2)
    )
    own = load(text, every_step=True)
    fields = own.data.splits["train"]
    assert own.reading.classes == ("no", "yes")
    np.testing.assert_array_equal(fields["counted"][:, :3], [[True, False, True]] * 6)
    np.testing.assert_array_equal(fields["label"][fields["counted"]] >= 0, True)
    np.testing.assert_array_equal(fields["counted"].sum(1), fields["length"] - 1)
    y = np.where(np.arange(4) == 1, -1, np.arange(40).reshape(10, 4) % 2)
    of_arrays = load({"x": np.ones((10, 4, 1)), "y": y}, "data.npz", every_step=True)
    np.testing.assert_array_equal(of_arrays.data.splits["train"]["label"][0], [0, UNKNOWN, 0, 1])


def test_columns_are_found_by_their_names_in_any_order(load, caplog):
    lines = [line.split(",") for line in rows().splitlines()]
    order = [4, 1, 3, 0, 2]
    turned = load("\n".join(",".join(line[column] for column in order) for line in lines))
    assert turned.reading.scaling.names == ("b", "a")
    np.testing.assert_array_equal(
        turned.data.splits["test"]["inputs"][..., ::-1], load(rows()).data.splits["test"]["inputs"]
    )
    again = load(rows(), reading=turned.reading)
    assert again.reading.scaling.names == ("b", "a")
    assert again.data.checksum == turned.data.checksum
    load("time,who,x,y\n" + "".join(f"{i % 3},{i // 3},{i},{i // 3 % 2}\n" for i in range(30)))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    load("n,x,y\n" + "".join(f"{i},{i},{i % 2}\n" for i in range(30)))
    assert "each sequence has one step; is 'n' the column of their ids?" in caplog.text


@pytest.mark.parametrize(
    ("names", "label"),
    [
        ("id,t,x,y", "y"),
        ("id,t,y,x", "y"),
        ("id,t,a,y,b", "y"),
        ("id,t,x,y,gesture", "gesture"),
        ("id,t,y,a,label", "label"),
    ],
)
def test_y_behind_x_is_a_coordinate_and_not_the_label(tmp_path, names, label):
    (tmp_path / "data.csv").write_text(f"{names}\n{names}\n")
    assert found_columns(read_table(tmp_path / "data.csv"), Columns()).label == label


# What is missing


def test_missing_steps_are_masked_and_missing_values_are_the_mean_and_said(load):
    own = load(rows(row2="s0,0,,,x", row6="s1,1,,-1,y", row7="s1,2,NaN,na,y"), cuts=Cuts(0.2, 0.2, by_time=True))
    scaling = own.reading.scaling
    assert (scaling.gaps, scaling.size) == ((0,), 3)
    inputs, mask = (own.data.splits["train"][name] for name in ("inputs", "mask"))
    np.testing.assert_array_equal(mask[:2], [[False, True, True], [True, True, False]])
    np.testing.assert_array_equal(inputs[1, 1, [0, 2]], [0, 1])
    np.testing.assert_array_equal(inputs[1, 0, 2], 0)
    other = [[np.nan, 3], [5, 4]]
    np.testing.assert_allclose(scaling.traced_inputs(other), scaling.inputs(other), rtol=1e-5)


# Splits


def test_scaling_and_classes_are_those_of_training_alone(load, caplog):
    new = "s19,9,1e6,1,new\ns19,10,1e6,1,new"
    text = rows(20).replace("s19,0,190,-19,y\ns19,1,191,-19,y\ns19,2,192,-19,y", new)
    own = load(text, cuts=Cuts(0.2, 0.2, by_time=True))
    assert own.reading.classes == ("x", "y")
    assert max(own.reading.scaling.mean) < 200
    np.testing.assert_array_equal(own.data.splits["test"]["label"].min(), UNKNOWN)
    assert "the test split has labels that training has not, which count as errors: ['new']" in caplog.text
    train = own.data.splits["train"]["inputs"]
    np.testing.assert_allclose(train.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(train.std((0, 1)), 1, atol=1e-5)


def test_classes_that_are_large_numbers_stay_apart(load):
    large = 2**53
    table = load(HEAD + "".join(f"s{i},{t},1,{i},{large + i % 2}\n" for i in range(10) for t in range(2)))
    arrays = load({"x": np.ones((10, 2, 1)), "y": large + np.arange(10) % 2}, "data.npz")
    assert table.reading.classes == arrays.reading.classes == (str(large), str(large + 1))


def test_an_archive_is_not_unpacked_into_more_than_the_memory(load, monkeypatch):
    monkeypatch.setattr("rnnjax.memory.device_memory", lambda: 100_000)
    with pytest.raises(ConfigError, match=r"the arrays in .* take at least"):
        load({"x": np.zeros((100, 1000, 1)), "y": np.arange(100) % 2}, "data.npz", compressed=True)


def test_values_that_float32_tells_apart_badly_are_said(load, caplog):
    load(HEAD + "".join(f"s{i},{t},{1e6 + t},{i},{i % 2}\n" for i in range(10) for t in range(2)))
    assert "values of 'a' are far from zero beside their spread" in caplog.text


def test_every_class_is_split_alike_whatever_the_order(load):
    text = HEAD + "".join(f"s{i},0,{i},1,{'rare' if i % 5 == 0 else 'often'}\n" for i in range(50))
    own, turned = load(text), load(HEAD + "\n".join(text.splitlines()[:0:-1]))
    for split, count in (("train", 6), ("validation", 2), ("test", 2)):
        assert (own.data.splits[split]["label"] == own.reading.classes.index("rare")).sum() == count
        np.testing.assert_array_equal(
            np.sort(own.data.splits[split]["inputs"], axis=0), np.sort(turned.data.splits[split]["inputs"], axis=0)
        )


def test_by_time_training_ends_first(load):
    steps = [(i, t) for i in range(10) for t in range(2)]
    text = HEAD + "".join(f"s{i},2024-01-{31 - i:02d}T0{t}:00,{i},1,{'xy'[i % 2]}\n" for i, t in steps)
    splits = load(text, cuts=Cuts(0.2, 0.2, by_time=True), columns=Columns(features=("a",))).data.splits
    ends = {split: fields["inputs"][:, 0, 0] for split, fields in splits.items()}
    assert ends["train"].min() > ends["validation"].max() > ends["validation"].min() > ends["test"].max()


def test_a_folder_has_a_file_for_each_split(tmp_path):
    for name, count in (("train", 4), ("val", 2), ("test", 3)):
        (tmp_path / f"{name}.csv").write_text(rows(count, steps=count))
    own = load_sequences(str(tmp_path), Columns(), CUTS, every_step=False, scale=True)
    assert shapes(own) == {"train": (4, 4, 2), "validation": (2, 2, 2), "test": (3, 3, 2)}
    (tmp_path / "test.csv").unlink()
    with pytest.raises(DataError, match=r"must hold one file test\.csv or test\.npz or test\.npy, got none"):
        load_sequences(str(tmp_path), Columns(), CUTS, every_step=False, scale=True)


def test_other_data_is_read_as_that_of_the_training_and_all_of_it(load):
    own = load(rows())
    reading = Reading.from_json(own.reading.to_json())
    assert reading == own.reading
    again = load(rows(), reading=reading)
    assert again.data.checksum == own.data.checksum
    assert load(rows(), reading=reading, cuts=CUTS._replace(whole=True)).data.checksum == own.data.checksum
    assert shapes(load(rows(20), reading=reading))["test"] == (4, 3, 2)  # begun from another run
    other = load(rows(4), reading=reading, cuts=CUTS._replace(whole=True))
    assert shapes(other) == dict.fromkeys(("train", "validation", "test"), (4, 3, 2))
    np.testing.assert_allclose(
        other.data.splits["test"]["inputs"][2, 1],
        (np.array([21, -2]) - reading.scaling.mean) / reading.scaling.scale,
        rtol=1e-5,
    )
    with pytest.raises(ConfigError, match=r"data\.whole is for the evaluation of other data by a finished run"):
        load(rows(), cuts=CUTS._replace(whole=True))
    with pytest.raises(DataError, match="has the features b, but the model a, b: give the same"):
        load(rows(), columns=Columns(features=("b",)), reading=reading)


def test_labels_that_a_model_does_not_know_are_refused_in_training_and_where_it_knows_none(load):
    reading = load(rows()).reading
    some, none = rows().replace(",y", ",new"), rows().replace(",y", ",new").replace(",x", ",old")
    with pytest.raises(DataError, match=r"training split of .* has the labels new, but .* knows x, y alone"):
        load(some, reading=reading)
    whole = CUTS._replace(whole=True)
    assert load(some, reading=reading, cuts=whole).data.splits["test"]["label"].min() == UNKNOWN
    with pytest.raises(DataError, match="has not one label that the model knows, but new, old in place of x, y"):
        load(none, reading=reading, cuts=whole)


# What is refused


TABLES = {
    "empty": ("", "is empty: give a csv file"),
    "names alone": (HEAD, "holds names of columns and no rows"),
    "no names": ("1,2,3\n4,5,6\n", "row 1 holds numbers ('1, 2, 3') where names of columns are expected"),
    "a nameless column": ("id,time,,label\n", "row 1 gives column 3 no name"),
    "a name twice": ("id,a,a,label\n", "row 1 names two columns 'a'"),
    "too few cells": (rows(row7="s1,2,3"), "row 7 has 3 cells where the first row names 5 columns"),
    "no number": (rows(row7="s1,2,12x,1,y"), "row 7, column 'a': '12x' is no number; correct it"),
    "a decimal comma": (rows(row7='s1,2,"1,5",1,y'), "row 7, column 'a': '1,5' is no number; write the decimal point"),
    "a date among features": (
        rows(row7="s1,2,31.12.2024,1,y"),
        "'31.12.2024' is no number; if the column holds the times, write them as 2024-01-31 and give",
    ),
    "infinite": (rows(row7="s1,2,inf,1,y"), "row 7, column 'a': 'inf' is too large"),
    "no id": (rows(row7=",2,1,1,y"), "row 7, column 'id': '' is no id of a sequence"),
    "no time": (rows(row7="s1,,1,1,y"), "row 7, column 'time': '' is not a number, as in the rows before it"),
    "a time twice": (rows(row7="s1,1,1,1,y"), "row 7, column 'time': '1' is the time of row 6 of the same sequence"),
    "a date": (
        rows().replace("s0,0", "s0,01/02/2024"),
        "row 2, column 'time': '01/02/2024' is not a date such as 2024-01-31",
    ),
    "another label": (rows(row7="s1,2,1,1,x"), "row 7, column 'label': 'x' is another label than that of row 6"),
    "no label": (rows(row32="s10,0,1,1,"), "row 32, column 'label': '' stands where a label"),
    "a broken class": (rows().replace(",x", ",1").replace(",y", ",2.5"), "row 5, column 'label': '2.5' is no class"),
    "one class": (rows().replace(",y", ",x"), "has one class, 'x', in its training split"),
    "too few": (rows(2), "has 2 sequences, too few for training, validation and test"),
    "all missing": (rows(row5="s1,0,,,y", row6="s1,1,,,y", row7="s1,2,,,y"), "all values of sequence 's1' are missing"),
    "open quotes": (rows() + 's9,3,1,1,"y\n', "row 32 is no row of a csv file"),
    "Latin-1": (
        rows().replace("s0", "sé").encode("latin-1"),
        'not text in UTF-8 (after row 0): save it as "CSV UTF-8"',
    ),
    "no features": ("id,label\n1,a\n", "has no column of features"),
}


@pytest.mark.parametrize(("content", "message"), TABLES.values(), ids=TABLES)
def test_what_is_wrong_with_a_table_is_said_with_file_row_and_column(load, content, message):
    with pytest.raises(DataError) as caught:
        load(content)
    assert message in str(caught.value)
    assert "data.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


X, Y = np.arange(60.0).reshape(10, 3, 2), np.arange(10) % 2
OBJECTS = np.empty(2, object)
ARRAYS = {
    "objects": (
        {"x": OBJECTS, "y": Y[:2]},
        "holds Python objects, which may run code when they are read: give sequences",
    ),
    "no inputs": ({"y": Y}, "must hold one array of inputs, called x or inputs or values or data, got y [10]"),
    "no labels": ({"x": X}, "must hold one array of labels"),
    "text": ({"x": X.astype(str), "y": Y}, "has inputs of type <U32: give numbers"),
    "four axes": ({"x": X[None], "y": Y[:1]}, "has inputs of shape [1, 10, 3, 2]: give [N, T, features]"),
    "labels of steps": (
        {"x": X, "y": np.ones((10, 3))},
        "has labels of shape [10, 3], but inputs of shape [10, 3, 2]: give labels of",
    ),
    "too long": (
        {"x": X, "y": Y, "lengths": np.array([3] * 9 + [4])},
        "has the length 4 of sequence 9, but inputs of 3 steps",
    ),
    "length zero": (
        {"x": X, "y": Y, "lengths": np.array([0] + [3] * 9)},
        "has the length 0 of sequence 0: it must be at least 1",
    ),
    "half lengths": (
        {"x": X, "y": Y, "lengths": np.full(10, 1.5)},
        "has lengths of type float64 and shape [10]: give whole numbers [N]",
    ),
    "lengths that fit nothing": (
        {"x": X[:, 0], "y": Y[:3], "lengths": np.array([3, 3, 3])},
        "has 3 lengths with a sum of 9, which fit neither",
    ),
    "broken labels": ({"x": X, "y": Y + 0.5}, "has the label 0.5 at index [0], which is no class"),
    "negative labels": ({"x": X, "y": Y - 1}, "has the label -1 at index [0]: give whole numbers from 0 on"),
    "infinite": ({"x": np.where(X == 9, np.inf, X), "y": Y}, "has a too large input at index [1, 1, 1]"),
    "no archive": (b"no archive", "cannot be read as NumPy's arrays"),
}


@pytest.mark.parametrize(("content", "message"), ARRAYS.values(), ids=ARRAYS)
def test_what_is_wrong_with_arrays_is_said_with_the_file(load, content, message):
    with pytest.raises(DataError) as caught:
        load(content, "data.npz")
    assert message in str(caught.value)
    assert "data.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_that_are_not_there_and_files_that_are_nothing_are_said(load, tmp_path):
    with pytest.raises(DataError, match="has no column 'lable', but id, time, a, b, label; did you mean 'label'"):
        load(rows(), columns=Columns(label="lable"))
    with pytest.raises(DataError, match="would use column 'a' for two things"):
        load(rows(), columns=Columns(label="a", features=("a", "b")))
    with pytest.raises(DataError, match=r"has no column of labels beside id, time and features \(id, a, b\)"):
        load("id,a,b\nx,1,2\n", columns=Columns(features=("a", "b")))
    with pytest.raises(DataError, match=r"data\.parquet is no \.csv or \.npz or \.npy file"):
        load("", "data.parquet")
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        load_sequences(str(tmp_path / "none.csv"), Columns(), CUTS, every_step=False, scale=True)
    with pytest.raises(DataError, match=r"data\.npz has no times"):
        load({"x": X, "y": Y}, "data.npz", cuts=Cuts(0.2, 0.2, by_time=True))
