"""What variables of Flax do not tell, its modules do: options that would change the outputs are refused."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import array, drawn_parameters
from fixtures.thorough import once_more
from flax import nnx

from rnnjax import GRU, LSTM, BasicRNN, Stack, unroll
from rnnjax.interop import from_flax

I, H = 3, 4
XS = array(np.random.default_rng(0).standard_normal((2, 5, I)))


def variables_of(module):
    return drawn_parameters(lambda key: linen.RNN(module).init(key, XS))


@pytest.mark.parametrize(
    ("cell", "module"),
    [
        (BasicRNN(H), linen.SimpleCell(H)),
        once_more(BasicRNN(H, "relu"), linen.SimpleCell(H, activation_fn=linen.relu)),
        (BasicRNN(H, jnp.sin), linen.SimpleCell(H, activation_fn=jnp.sin)),
        (LSTM(H, gate_activation=linen.hard_sigmoid), linen.LSTMCell(H, gate_fn=linen.hard_sigmoid)),
        (LSTM(H), linen.OptimizedLSTMCell(H)),
        (GRU(H), linen.GRUCell(H)),
    ],
    ids=["simple", "relu", "function", "gate", "lstm", "gru"],
)
def test_a_module_that_computes_what_the_cell_does_is_taken(cell, module):
    variables = variables_of(module)
    expected = jax.jit(linen.RNN(module).apply)(variables, XS)
    params, again = (from_flax(cell, variables, module=given) for given in (module, linen.RNN(module)))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    np.testing.assert_allclose(unroll(cell, params, XS)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("cell", "module", "said"),
    [
        (BasicRNN(H), linen.SimpleCell(H, residual=True), "SimpleCell has residual=True"),
        (BasicRNN(H), linen.SimpleCell(H, activation_fn=linen.relu), "SimpleCell has activation_fn=relu, but BasicRNN"),
        (BasicRNN(H, "relu"), linen.SimpleCell(H), "SimpleCell has activation_fn=tanh, but BasicRNN"),
        (LSTM(H), linen.LSTMCell(H, gate_fn=linen.hard_sigmoid), "LSTMCell has gate_fn=hard_sigmoid, but LSTM"),
        (GRU(H), linen.GRUCell(H, activation_fn=linen.relu), "GRUCell has activation_fn=relu, but GRU"),
    ],
)
def test_a_module_that_computes_something_else_is_refused(cell, module, said):
    with pytest.raises(ValueError, match=said):
        from_flax(cell, variables_of(module), module=module)


def test_modules_of_nnx_are_read_alike():
    module = nnx.SimpleCell(I, H, residual=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="SimpleCell has residual=True"):
        from_flax(BasicRNN(H), nnx.state(module), module=module)
    plain = nnx.SimpleCell(I, H, rngs=nnx.Rngs(0))
    from_flax(BasicRNN(H), nnx.state(plain), module=plain)


def test_a_stack_has_a_module_a_layer():
    cell, modules = Stack((LSTM(H), BasicRNN(H))), [linen.OptimizedLSTMCell(H), linen.SimpleCell(H, residual=True)]
    with pytest.raises(ValueError, match="module must have one for each of the 2 layers of Stack"):
        from_flax(cell, {}, module=modules[0])
    with pytest.raises(ValueError, match="SimpleCell has residual=True"):
        from_flax(cell, {}, module=modules)
