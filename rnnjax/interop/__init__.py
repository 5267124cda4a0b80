"""Parameters from TensorFlow 1, PyTorch and Flax, for the cells that exist on both sides.

Each function takes a rnnjax cell and the other framework's variables by name, and returns the cell's parameters:
the same computation, so the cell has to be the counterpart of the one that was saved. Every variable must be used,
with the shape that the cell expects; what is missing, left over or misshapen is refused by name. What carries no
parameters (an activation, a clip, dropout) is not in the variables, and is the caller's to choose alike.

Arrays may be NumPy's, JAX's or PyTorch's. The conversions are traceable, so gradients with respect to the other
framework's variables come out in its own layout.
"""

from rnnjax.interop.flax import from_flax
from rnnjax.interop.tf1 import from_tf1
from rnnjax.interop.torch import bidirectional_from_torch, from_torch

__all__ = ["bidirectional_from_torch", "from_flax", "from_tf1", "from_torch"]
