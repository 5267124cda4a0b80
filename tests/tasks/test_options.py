"""A task has the options of generation that its `generate` declares, and those alone."""

import pytest

from rnnjax.errors import ConfigError
from rnnjax.tasks import (
    classify,
    forecast,
    hihello,
    language_model,
    mnist,
    navigation,
    sequences,
    tag,
    time_series,
    translate,
    word2vec,
)
from rnnjax.tasks.options import options_of, require_options

SAMPLING = {"temperature": 1.0, "top_k": None, "top_p": None, "seed": 0}
OPTIONS = {
    hihello: {"prompt": None},
    time_series: {"prompt": None, "length": 300},
    language_model: {"prompt": "", "length": 300, **SAMPLING},
    navigation: {"prompt": None, "n_best": 1},
    translate: {"beam_size": 4, "n_best": 1},
    word2vec: {"prompt": None},
    forecast: {"length": 300},
    classify: {},
    tag: {},
}


def test_each_task_has_the_options_that_mean_something_to_it():
    assert {module: options_of(module.Task.generate) for module in OPTIONS} == OPTIONS
    assert mnist.Task.generate is sequences.Task.generate is None


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (translate, "top_p", "^the task takes --beam-size, --n-best: leave --top-p out$"),
        (classify, "prompt", "^the task takes no options: leave --prompt out$"),
        (word2vec, "lines", "^the task takes --prompt: leave --lines out$"),
    ],
)
def test_an_option_that_a_task_has_not_is_refused_by_the_names_of_those_it_has(module, name, message):
    with pytest.raises(ConfigError, match=message):
        require_options(module.Task.generate, {name: 1}, "the task", prefix="--")
