"""Parameters from and to other frameworks, for the cells that exist on both sides.

Each ``from_...`` takes an rnnjax cell and the other framework's variables by name, and returns parameters with which
the cell computes the same. The cell must be the counterpart of the one that was saved. Every variable must be used and
have the shape that the cell expects; an error names the variables that are missing, unused, or of another shape.
Options without parameters (an activation, clipping, dropout) are not in the variables: give the cell the same ones.

Each ``to_...`` is the inverse of a ``from_...``: it returns NumPy arrays that the other framework loads, and says in a
sentence what it has no counterpart of.

Arrays may be NumPy's, JAX's or PyTorch's. The conversions are traceable, so that gradients can be taken with respect to
the other framework's variables. No other framework need be installed.
"""

from rnnjax.interop.equinox import from_equinox
from rnnjax.interop.flax import from_flax, to_flax
from rnnjax.interop.haiku import from_haiku
from rnnjax.interop.keras import bidirectional_from_keras, from_keras, to_keras
from rnnjax.interop.keras_file import write_keras
from rnnjax.interop.named_arrays import from_arrays, to_arrays
from rnnjax.interop.onnx import from_onnx, onnx_weights
from rnnjax.interop.onnx_model import to_onnx
from rnnjax.interop.safetensors import read_safetensors, write_safetensors
from rnnjax.interop.stablehlo import to_stablehlo
from rnnjax.interop.tf1 import from_tf1
from rnnjax.interop.tf1_checkpoint import read_tf1_checkpoint
from rnnjax.interop.torch import bidirectional_from_torch, bidirectional_to_torch, from_torch, to_torch
from rnnjax.interop.torch_file import write_torch

__all__ = [
    "bidirectional_from_keras",
    "bidirectional_from_torch",
    "bidirectional_to_torch",
    "from_arrays",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_onnx",
    "from_tf1",
    "from_torch",
    "onnx_weights",
    "read_safetensors",
    "read_tf1_checkpoint",
    "to_arrays",
    "to_flax",
    "to_keras",
    "to_onnx",
    "to_stablehlo",
    "to_torch",
    "write_keras",
    "write_safetensors",
    "write_torch",
]
