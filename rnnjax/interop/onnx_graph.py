"""ONNX graphs, written node by node."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np

XS, LENGTHS, YS = "xs", "lengths", "ys"
OPSET, IR_VERSION = 17, 8  # of 2022, so that runtimes of any age since then read it


def package(name: str = "onnx") -> Any:
    """Returns a package that is an extra.

    Raises:
      ModuleNotFoundError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f'the package {name} is missing; install with: pip install "rnnjax[onnx]"') from None


def state_name(part: str) -> str:
    """Returns the name of an input that is a part of the state before the first step."""
    return f"state_{part}"


def new_state_name(part: str) -> str:
    """Returns the name of an output that is a part of the state after the last valid step."""
    return f"new_state_{part}"


@dataclasses.dataclass
class Graph:
    """A graph under construction: its nodes in order, and its constants by name; all names begin with `prefix`."""

    prefix: str = ""
    nodes: list[Any] = dataclasses.field(default_factory=list)
    constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    count: int = 0

    def new_name(self) -> str:
        """Returns a name that nothing has yet."""
        self.count += 1
        return f"{self.prefix}value_{self.count}"

    def constant(self, name: str, value: np.ndarray) -> str:
        """Adds a constant, once if it is the same; returns its name."""
        name = self.prefix + name
        if name in self.constants and not np.array_equal(self.constants[name], value):
            name = f"{name}_{len(self.constants)}"
        self.constants[name] = value
        return name

    def add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Adds a node.

        Args:
          kind: its operator, such as ``"Add"``.
          inputs: the names of what it reads.
          outputs: the names of what it makes.
          **attributes: those of the operator.
        """
        name = f"{self.prefix}{kind}_{len(self.nodes)}"
        self.nodes.append(package().helper.make_node(kind, inputs, outputs, name=name, **attributes))

    def node(self, kind: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """Adds a node with one output; returns the output's name.

        Args:
          kind: its operator, such as ``"Add"``.
          inputs: the names of what it reads.
          output: the name of what it makes; None makes a name.
          **attributes: those of the operator.
        """
        output = output or self.new_name()
        self.add(kind, inputs, [output], **attributes)
        return output


def add_mask(graph: Graph) -> str:
    """Adds which steps are valid by the lengths; returns the name, ``[B, T]``."""
    zero, one = (graph.constant(f"number_{n}", np.array(n, np.int64)) for n in (0, 1))
    length = graph.node("Gather", [graph.node("Shape", [XS]), one], axis=0)
    steps = graph.node("Range", [zero, length, one])
    lengths = graph.node("Cast", [LENGTHS], to=7)  # int64
    last = graph.constant("axis_1", np.array([1], np.int64))
    return graph.node("Less", [steps, graph.node("Unsqueeze", [lengths, last])])


def where_valid(graph: Graph, ys: str) -> list[str]:
    """Returns the inputs of a Where that makes outputs ``[B, T, O]`` zero past the lengths."""
    last = graph.constant("axis_2", np.array([2], np.int64))
    mask = graph.node("Unsqueeze", [add_mask(graph), last])
    return [mask, ys, graph.constant("nothing", np.array(0, np.float32))]


def value_info(name: str, shape: tuple[Any, ...], dtype: Any) -> Any:
    """Returns the description of an input or output; a text in a shape is a free size."""
    helper = package().helper
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))


def stored(graph: Graph) -> list[Any]:
    """Returns a graph's constants as ONNX has them."""
    from_array = package().numpy_helper.from_array
    return [from_array(value, name) for name, value in graph.constants.items()]


def model_of(graph: Graph, inputs: list[Any], outputs: list[Any]) -> Any:
    """Returns a checked `onnx.ModelProto`.

    Args:
      graph: the graph.
      inputs, outputs: their descriptions, as `value_info` returns them.
    """
    onnx = package()
    helper = onnx.helper
    made = helper.make_graph(graph.nodes, "rnnjax", inputs, outputs, stored(graph))
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, producer_name="rnnjax", opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model
