"""Pictures say what they show: titles, units, scales; none is of a single dot."""

import numpy as np
import pytest

from rnnjax import plots
from rnnjax.tasks import alignment_plot, length_plot, time_series_plots, word_plots
from rnnjax.training.sweeps import report


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figures that are written, by the names of their files."""
    figures = {}
    for module in (plots, alignment_plot, length_plot, time_series_plots, word_plots, report):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.update({path.stem: figure}))
    return figures


def rows(split, name, *values):
    return [{"step": step, "epoch": 1, "split": split, name: value} for step, value in enumerate(values, 1)]


def test_a_curve_has_a_title_units_and_a_scale_for_decades_and_single_values_are_levels(drawn, tmp_path):
    told = rows("train", "loss", 8.0, 1.0, 0.01) + rows("test", "loss", 0.02)
    told += rows("train", "accuracy", 0.001, 0.9) + rows("test", "bleu", 12.0)
    plots.plot_curves(told, tmp_path)
    assert set(drawn) == {"loss", "accuracy"}
    (loss,), (accuracy,) = drawn["loss"].axes, drawn["accuracy"].axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    assert loss.get_title() == "Loss by training step"
    assert accuracy.get_ylabel() == "accuracy (fraction right)"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "test, at step 1"]
    assert all(len(line.get_xdata()) > 1 for line in loss.lines)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("loss", [100.0, 1.0], True),
        ("loss", [99.0, 1.0], False),
        ("loss", [1.0, 0.0], False),
        ("loss", [], False),
        ("perplexity", [1e4, float("inf"), 10.0], True),
        ("accuracy", [0.001, 1.0], False),
    ],
)
def test_losses_that_span_two_decades_are_shown_by_their_logarithm(name, values, expected):
    assert plots.spans_decades(name, values) == expected


def test_words_of_a_map_cover_no_other():
    crowd = np.zeros((3, 2))
    apart = np.array([[5.0, 5.0], [9.0, 0.0]])
    points = np.concatenate([crowd, apart])
    assert word_plots.readable(points, ["first", "second", "third", "far", "farther"]).tolist() == [0, 3, 4]


def test_every_picture_has_a_title_and_words_at_its_axes(drawn, tmp_path):
    random = np.random.default_rng(0)
    alignment_plot.plot_alignment(random.random((2, 3)), ["a", "b", "c"], ["d", "e"], tmp_path / "alignment.png")
    length_plot.plot_by_length({4: {"accuracy": 1.0}, 8: {"accuracy": 0.5}}, 4, tmp_path / "length.png")
    word_plots.plot_words(random.random((3, 2)), ["a", "b", "c"], tmp_path / "words.png")
    time_series_plots.plot_series(1.0, 5, tmp_path)
    time_series_plots.plot_prediction(1.0, np.ones(6), np.ones(5), tmp_path / "prediction.png")
    time_series_plots.plot_generated(np.ones(3), np.ones(2), None, tmp_path / "generated.png")
    assert len(drawn) == 7
    for figure in drawn.values():
        assert figure.axes[0].get_title()
        assert figure.axes[0].get_xlabel()
        assert figure.axes[0].get_ylabel()
    _, bar = drawn["alignment"].axes
    assert bar.get_ylabel() == "weight"


def test_a_sweep_of_one_epoch_draws_no_dots(drawn, tmp_path):
    point = {"values": {}, "final": {"validation": {"loss": {"mean": 1.0, "std": 0.0}}}}
    results = {"runs": [{"run": 0, "diverged": None, "values": {}}], "points": [point]}
    told = [{**row, "run": 0} for row in rows("validation", "loss", 1.0, 0.5)]
    report.plot_sweep(results, told[:1], tmp_path)
    assert drawn == {}
    report.plot_sweep(results, told, tmp_path)
    assert "one seed" in drawn["loss"].axes[0].get_legend().get_texts()[0].get_text()


def test_characters_that_no_font_has_are_told_of_in_one_line(tmp_path, caplog):
    figure, _ = plots.new_figure(2, 2, title="früh 日本 日")
    plots.save_figure(figure, tmp_path / "a.png")
    (line,) = caplog.messages
    assert line == f"the plot {tmp_path}/a.png has boxes for 日本: matplotlib finds no font that has them"
    assert (tmp_path / "a.png").stat().st_size > 0
