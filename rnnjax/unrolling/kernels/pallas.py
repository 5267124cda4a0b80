"""Pointwise gated cells as persistent GPU kernels, with the recurrent weight on the chip for all steps."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import GatedCell, State, compute_dtype
from rnnjax.cells.traits import fuses
from rnnjax.unrolling.kernels.layout import (
    MULTIPROCESSORS,
    SHARED_MEMORY,
    layouts_of,
    most_units,
    one_unit,
    sizes_of,
)
from rnnjax.unrolling.kernels.precision import exact_products
from rnnjax.unrolling.recurrence import Method, Recurrence

_TYPES = ("float32", "bfloat16", "float16")
_MOST_ENTRIES = 2**31  # of an array with its padding, as kernels index it


@dataclasses.dataclass(frozen=True)
class Pallas(Method):
    """One kernel forward and one backward for all steps of a pointwise gated cell, a user's own too, on an H100.

    The recurrent weight stays on the chip from step to step. Gradients are those of reverse mode, by a kernel;
    derivatives of the gradients are those of `Scan`. `jax.jvp` and `jax.linearize` of the recurrence itself are not to
    be had. Products of float32 are in TensorFloat-32, as XLA's are by default.

    Attributes:
      interpret: whether to run the kernels on a CPU, slowly, as their tests do.

    Raises:
      TypeError: for an `interpret` that is not a bool; ValueError: when it runs, for a recurrence or a device that the
        kernels are not for.
    """

    interpret: bool = False

    def __post_init__(self):
        if not isinstance(self.interpret, bool):
            raise TypeError(f"interpret must be True or False, got {self.interpret!r}")

    def why_not(self, recurrence: Recurrence) -> str | None:
        on_this_machine = None if self.interpret else unsuited_device()
        return on_this_machine or unsuited_recurrence(recurrence, self.interpret)

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        # Pallas for GPUs takes half a second to import, which most programs would wait for in vain.
        from rnnjax.unrolling.kernels import differentiable

        return differentiable.run(recurrence, interpret=self.interpret)


def unsuited_device() -> str | None:
    """Returns a sentence about a machine that the kernels are not for: blocks that wait for each other must all fit.

    The assembler of CUDA 12 (seen in ptxas 12.8 and 12.9, not in 13.0) takes the results of a product for the zeros it
    starts from where threads exchange them: the outputs would be wrong without a word.
    """
    if jax.default_backend() != "gpu":
        return "Pallas() runs on a GPU; elsewhere use Fused() or Scan(), or Pallas(interpret=True) to test it"
    device: Any = jax.devices()[0]
    if device.platform != "gpu":  # programs made here for a GPU elsewhere
        return None
    cuda = re.search(r"cuda (\d+)\d{3}", device.client.platform_version.lower())
    if cuda is not None and int(cuda[1]) < 13:
        return f"Pallas() needs CUDA 13, as CUDA {cuda[1]} compiles it to wrong code; use Fused() or Scan()"
    capability, multiprocessors = device.compute_capability, device.core_count
    if capability == "9.0" and multiprocessors >= MULTIPROCESSORS:
        return None
    return (
        f"Pallas() needs a GPU of compute capability 9.0 with {MULTIPROCESSORS} multiprocessors, such as an "
        f"H100, got {device.device_kind} with {capability} and {multiprocessors}; use Fused() or Scan()"
    )


def unsuited_recurrence(recurrence: Recurrence, interpret: bool = False) -> str | None:
    """Returns a sentence about a recurrence that the kernels cannot run on any machine, None for one that they can."""
    cell, name = recurrence.cell, type(recurrence.cell).__name__
    if not fuses(cell):
        return f"Pallas() takes gated cells whose step is GatedCell's, and {name} is not one here; use Scan() or Auto()"
    if not cell.pointwise:
        return f"{name} mixes hidden units in its gates, and Pallas() splits them; use Fused() or Scan()"
    leaves = jax.tree.leaves((recurrence.params, recurrence.state, recurrence.steps.z))
    wrong = next((leaf.dtype for leaf in leaves if leaf.dtype.name not in _TYPES), None)
    if wrong is not None:
        return f"Pallas() computes in {', '.join(_TYPES)}, got {wrong}; convert it, or use Fused() or Scan()"
    if not interpret and compute_dtype(recurrence.steps.z) == jnp.float32 and exact_products():
        return "Pallas() multiplies float32 in TensorFloat-32, less than was asked for; use Fused() or Scan()"
    return _too_large(cell, recurrence, split=not interpret)


def _too_large(cell: GatedCell, recurrence: Recurrence, *, split: bool) -> str | None:
    """Returns a sentence with the limit and the nearest shape within it, None if the recurrence is within."""
    gates, hidden, batch, dtype = sizes_of(cell, recurrence)
    ahead, back = layouts_of(cell, recurrence, split=split)
    if ahead is not None and back is not None:
        per_step = [one_unit(leaf, hidden).size for leaf in jax.tree.leaves(recurrence.steps.z)]
        entries = max(gates, *(size // (recurrence.length * batch) for size in per_step))
        padded = max(layout.tiles * layout.rows * layout.width for layout in (ahead, back))
        most = _MOST_ENTRIES // (padded * entries) - 1
        if recurrence.length <= most:
            return None
        return f"Pallas() indexes with 32 bits, here at most {most} steps at once, got {recurrence.length}"
    most = min(most_units(gates, parts, dtype.itemsize, batch, split=split) for parts in (1, gates))
    place = f"{MULTIPROCESSORS} blocks of {SHARED_MEMORY // 1024} KiB" if split else f"{SHARED_MEMORY // 1024} KiB"
    return (
        f"Pallas() holds the recurrent weight of {gates} gates in {place} of shared memory: with a batch of "
        f"{batch} in {dtype} at most {most} hidden units, got {hidden}; make hidden_size or the batch smaller, "
        "or use Fused() or Scan()"
    )
