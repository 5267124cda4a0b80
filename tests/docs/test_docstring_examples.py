"""The public names that are used most have an example in their docstring, which runs as it stands."""

import doctest
import importlib

import pytest

# A user meets these first. Each is the place that a name is imported from, and the name.
MOST_USED = [
    *(
        ("rnnjax", name)
        for name in (
            "Auto",
            "Bahdanau",
            "BasicRNN",
            "Cell",
            "Dropout",
            "Fused",
            "GRU",
            "GatedCell",
            "LSTM",
            "LearnedState",
            "Luong",
            "Pallas",
            "Project",
            "Residual",
            "Scan",
            "Stack",
            "Static",
            "WeightDrop",
            "Wrapper",
            "Zoneout",
            "attending",
            "bidirectional",
            "choose_method",
            "init_bidirectional",
            "static_unroll",
            "unroll",
            "unroll_states",
        )
    ),
    ("rnnjax.interop", "bidirectional_from_torch"),
    ("rnnjax.interop", "from_flax"),
    ("rnnjax.interop", "from_tf1"),
    ("rnnjax.interop", "from_torch"),
    ("rnnjax.nn", "Bidirectional"),
    ("rnnjax.nn", "RNN"),
    ("rnnjax.nn.nnx", "RNN"),
]


def example(module, name):
    """Returns the example in a docstring, without examples if there are none."""
    docstring = getattr(importlib.import_module(module), name).__doc__
    return doctest.DocTestParser().get_doctest(docstring, {}, f"{module}.{name}", None, 0)


@pytest.mark.parametrize(("module", "name"), MOST_USED, ids=map(".".join, MOST_USED))
def test_a_name_that_is_used_much_has_an_example_that_runs_and_prints_what_it_shows(module, name):
    test = example(module, name)
    assert test.examples, f"{module}.{name} has no example"
    told = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    assert results.failed == 0, "".join(told)


def test_an_example_shows_a_result():
    assert all(any(part.want for part in example(*place).examples) for place in MOST_USED)
