"""The public names that are used most have an example in their docstring, which runs as it stands."""

import doctest
import importlib

import pytest

# A user meets these first. Each is the place that a name is imported from, and the name.
MOST_USED = {
    "rnnjax": "Cell GatedCell BasicRNN LSTM GRU SLSTM Wrapper Stack Dropout Zoneout WeightDrop Heads Project Residual "
    "LearnedState Bahdanau Luong attending unroll unroll_states static_unroll bidirectional init_bidirectional "
    "choose_method Auto Static Scan Fused Pallas "
    "LinearCell LRU MinGRU MinLSTM RGLRU QRNN Complex Associative linear_scan "
    "MemoryCell GatedLinearAttention GatedDeltaNet Chunkwise "
    "DiagonalCell IndRNN ParaGRU ParaLSTM",
    "rnnjax.interop": "from_torch bidirectional_from_torch from_flax from_tf1",
    "rnnjax.nn": "RNN Bidirectional",
    "rnnjax.nn.nnx": "RNN",
}
PLACES = [(module, name) for module, names in MOST_USED.items() for name in names.split()]


def example(module, name):
    """Returns the example in a docstring, without examples if there are none."""
    docstring = getattr(importlib.import_module(module), name).__doc__
    return doctest.DocTestParser().get_doctest(docstring, {}, f"{module}.{name}", None, 0)


@pytest.mark.parametrize(("module", "name"), PLACES, ids=map(".".join, PLACES))
def test_a_name_that_is_used_much_has_an_example_that_runs_and_prints_what_it_shows(module, name):
    test = example(module, name)
    assert test.examples, f"{module}.{name} has no example"
    told = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    assert results.failed == 0, "".join(told)


def test_an_example_shows_a_result():
    assert all(any(part.want for part in example(*place).examples) for place in PLACES)
