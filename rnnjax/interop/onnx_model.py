"""ONNX models of a cell over time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cells import Cell
from rnnjax.cells.cell import Params
from rnnjax.interop.onnx_graph import (
    LENGTHS,
    XS,
    YS,
    Graph,
    add_mask,
    model_of,
    new_state_name,
    package,
    state_name,
    stored,
    value_info,
)
from rnnjax.interop.onnx_operators import add_operators, operators
from rnnjax.interop.sizes import input_size_of
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.sequences import unroll


def to_onnx(cell: Cell, params: Params) -> Any:
    """Returns a cell over time as an ONNX model of any batch size and length.

    | input | |
    |---|---|
    | ``xs`` | ``[batch, time, I]`` float32 |
    | ``lengths`` | ``[batch]`` int32, the valid steps of each sequence |
    | ``state_h``, ... | the parts of the state before the first step, ``[batch, H]``; of a stack ``state_0_h``, ... |

    | output | |
    |---|---|
    | ``ys`` | ``[batch, time, O]``, zero past the lengths |
    | ``new_state_h``, ... | the state after each sequence's last valid step |

    `BasicRNN`, `LSTM` (without projection, normalisation and clipping) and `GRU`, in `Stack` and `Project`, are ONNX's
    own operators RNN, LSTM and GRU, and need the package onnx. Any other cell is traced, and needs jax2onnx. Dropout is
    as in evaluation. `from_onnx` reads the operators' weights back.

    Args:
      cell: the cell.
      params: its parameters.

    Returns:
      An `onnx.ModelProto`; ``onnx.save(model, path)`` writes it.

    Raises:
      ValueError: if the parameters are not the cell's.
      ModuleNotFoundError: if a package is not installed.
    """
    input_size = input_size_of(cell, params)
    try:
        layers, dense = operators(cell, params)
    except ValueError:
        return _traced(cell, params, input_size)
    state = _state_shapes(cell, params)
    graph = Graph()
    add_operators(graph, layers, dense, iter(name for name, _ in state))
    return model_of(graph, _inputs(state, input_size), _outputs(state, cell.output_size))


State = list[tuple[str, jax.ShapeDtypeStruct]]  # the parts of a state by name, each of a batch of one


def _state_shapes(cell: Cell, params: Params) -> State:
    """Returns the parts of the state: their names, such as ``0_h``, and shapes."""
    shapes = jax.eval_shape(lambda params: cell.start(params, 1, jnp.float32), params)
    leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
    return [(jax.tree_util.keystr(path, simple=True, separator="_"), leaf) for path, leaf in leaves]


def _inputs(state: State, input_size: int) -> list[Any]:
    given = [value_info(XS, ("batch", "time", input_size), np.float32), value_info(LENGTHS, ("batch",), np.int32)]
    return given + [value_info(state_name(part), ("batch", *leaf.shape[1:]), leaf.dtype) for part, leaf in state]


def _outputs(state: State, output_size: int) -> list[Any]:
    made = [value_info(YS, ("batch", "time", output_size), np.float32)]
    return made + [value_info(new_state_name(part), ("batch", *leaf.shape[1:]), leaf.dtype) for part, leaf in state]


def _traced(cell: Cell, params: Params, input_size: int) -> Any:
    """Returns the model of any cell, as jax2onnx translates its loop."""
    state = _state_shapes(cell, params)
    structure = jax.tree.structure(jax.eval_shape(lambda params: cell.start(params, 1, jnp.float32), params))

    def run(xs: Any, mask: Any, *leaves: Any) -> tuple[Any, ...]:
        before = jax.tree.unflatten(structure, leaves)
        ys, after = unroll(cell, params, xs, before, mask=mask, method=Scan())
        return ys, *jax.tree.leaves(after)

    names = [part for part, _ in state]
    shapes = [jax.ShapeDtypeStruct(("batch", *leaf.shape[1:]), leaf.dtype) for _, leaf in state]  # pyright: ignore
    xs = jax.ShapeDtypeStruct(("batch", "time", input_size), jnp.float32)  # pyright: ignore
    model = package("jax2onnx").to_onnx(
        run,
        inputs=[xs, jax.ShapeDtypeStruct(("batch", "time"), bool), *shapes],  # pyright: ignore
        model_name="rnnjax",
        input_names=[XS, _MASK, *map(state_name, names)],
        output_names=[YS, *map(new_state_name, names)],
    )
    return _with_lengths(model)


_MASK = "mask"


def _with_lengths(model: Any) -> Any:
    """Returns a traced model that reads lengths and makes its mask of them: jax2onnx cannot compare free sizes."""
    graph = Graph(prefix="mask_")
    graph.node("Identity", [add_mask(graph)], _MASK)
    made = model.graph
    nodes = [*graph.nodes, *made.node]
    del made.node[:]
    made.node.extend(nodes)
    made.initializer.extend(stored(graph))
    inputs = [value_info(LENGTHS, ("batch",), np.int32) if each.name == _MASK else each for each in made.input]
    del made.input[:]
    made.input.extend(inputs)
    package().checker.check_model(model)
    return model
