"""Pointwise gated cells as persistent GPU kernels, with the recurrent weight on the chip for all steps."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.cells.cell import State, compute_dtype
from rnnjax.cells.checks import describe
from rnnjax.cells.gated_cell import GatedCell
from rnnjax.cells.traits import fuses
from rnnjax.unrolling.by_head import number_of_heads, of_one_head, run_by_head
from rnnjax.unrolling.instead import methods_for, why_not_closed_over
from rnnjax.unrolling.kernels.instructions import unknown_operation
from rnnjax.unrolling.kernels.layout import (
    MULTIPROCESSORS,
    SHARED_MEMORY,
    layouts_of,
    most_units,
    one_unit,
    sizes_of,
)
from rnnjax.unrolling.kernels.precision import exact_products
from rnnjax.unrolling.own_units import gates_by_unit_differ
from rnnjax.unrolling.recurrence import Method, Recurrence

_TYPES = ("float32", "bfloat16", "float16")
# The flags by which XLA runs parts of a program at once that do not depend on each other.
_CONCURRENT = (
    "--xla_gpu_command_buffer_scheduling_mode=concurrent.*|--xla_gpu_graph_enable_concurrent_region(=true|=1)?"
)
_MPS = "/tmp/nvidia-mps"  # where CUDA's multi-process service has its pipes, unless a variable says otherwise
_MOST_ENTRIES = 2**31  # of an array with its padding, as kernels index it


@dataclasses.dataclass(frozen=True)
class Pallas(Method):
    """One kernel forward and one backward for all steps of a pointwise gated cell, a user's own too, on an H100.

    The recurrent weight stays on the chip from step to step. `jax.grad` uses a kernel of its own; derivatives of
    gradients are computed by `Scan`. Forward mode (`jax.jvp`, `jax.linearize`) is not supported. Products of float32
    are computed in TensorFloat-32, as XLA computes them by default.

    Attributes:
      interpret: whether to run the kernels in JAX's interpreter on a CPU, slowly, as the tests do.

    Raises:
      TypeError: if `interpret` is not a bool.
      ValueError: when it runs, if the kernels do not support the recurrence or the device.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LSTM(16)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 4, 3)), method=rnnjax.Pallas(interpret=True))
      >>> ys.shape
      (2, 4, 16)
    """

    interpret: bool = False

    def __post_init__(self):
        if not isinstance(self.interpret, bool):
            raise TypeError(f"interpret must be True or False, got {self.interpret!r}")

    def why_not(self, recurrence: Recurrence) -> str | None:
        on_this_machine = None if self.interpret else unsuited_device()
        return (
            on_this_machine or why_not_closed_over(self, recurrence) or unsuited_recurrence(recurrence, self.interpret)
        )

    def run(self, recurrence: Recurrence) -> tuple[Float[Array, "T *B H"], State]:
        # Pallas for GPUs takes half a second to import, and most programs never use it.
        from rnnjax.unrolling.kernels import differentiable

        return run_by_head(functools.partial(differentiable.run, interpret=self.interpret), recurrence)


def unsuited_device() -> str | None:
    """Returns in one sentence why the kernels cannot run on this machine; None if they can.

    Blocks that wait for each other must all run at once, so there must be enough multiprocessors. The assembler of
    CUDA 12 (seen in ptxas 12.8 and 12.9, not in 13.0) miscompiles the exchange of a product between threads: it reads
    the zeros that the accumulator started from, and the outputs would be silently wrong.
    """
    if jax.default_backend() != "gpu":
        return "Pallas() runs on a GPU; elsewhere use Fused() or Scan(), or Pallas(interpret=True) to test it"
    device: Any = jax.devices()[0]
    if device.platform != "gpu":  # compiling here for a GPU on another machine
        return None
    # CUDA's version is one number, 1000 * major + 10 * minor: 12090 is 12.9.
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
    """Returns in one sentence why the kernels cannot run a recurrence on any machine; None if they can."""
    cell, name = recurrence.cell, type(recurrence.cell).__name__
    if not fuses(cell):
        return (
            f"Pallas() takes gated cells whose step is GatedCell's, and {name} is not one here; "
            f"use {methods_for(cell)}, or Auto(), which chooses a method for each layer"
        )
    if not cell.pointwise:
        return f"{name} mixes hidden units in its gates, and Pallas() splits them; use Fused() or Scan()"
    leaves = jax.tree.leaves((recurrence.params, recurrence.state, recurrence.steps.z))
    unsupported = next((leaf.dtype for leaf in leaves if leaf.dtype.name not in _TYPES), None)
    if unsupported is not None:
        return f"Pallas() computes in {', '.join(_TYPES)}, got {unsupported}; convert it, or use Fused() or Scan()"
    # When interpreted, products are XLA's, in the precision that JAX is set to.
    if not interpret and compute_dtype(recurrence.steps.z) == jnp.float32 and exact_products():
        return (
            "Pallas() multiplies float32 in TensorFloat-32, below the default_matmul_precision that JAX is set to; "
            "use Fused() or Scan()"
        )
    heads, one = number_of_heads(recurrence), of_one_head(recurrence)
    unknown = _unsuited_state(recurrence) or unknown_operation(one)
    if unknown is not None:
        return unknown
    if gates_by_unit_differ(recurrence):
        return (
            f"Pallas() takes each hidden unit of {name} by itself, with hidden_size = 1, and its gates then give other "
            "numbers than for all at once; set pointwise = False in the cell, or use Fused() or Scan()"
        )
    layouts = layouts_of(cell, one, split=not interpret)
    if None in layouts:
        return _too_wide(cell, one, heads, split=not interpret)
    # A kernel whose blocks do not wait may run beside any other.
    waits = any(layout.waits for layout in layouts if layout is not None)
    return (waits and beside_others()) or _too_long(cell, one, layouts, heads)


def _unsuited_state(recurrence: Recurrence) -> str | None:
    """Returns in one sentence that not every leaf of the state has a part for each hidden unit; None if it does."""
    like = recurrence.state.h.shape
    if all((*leaf.shape[: len(like) - 1], *leaf.shape[-1:]) == like for leaf in jax.tree.leaves(recurrence.state)):
        return None
    got = describe(recurrence.state)
    return f"Pallas() takes states of which every leaf is [*batch, ..., H], got {got}; use Fused() or Scan()"


def beside_others() -> str | None:
    """Returns in one sentence what lets a second kernel run beside one whose blocks wait for each other; None: nothing.

    Each might hold multiprocessors that the other waits for. Within a program kernels take turns (see `turns`); XLA
    runs the programs of a process one after the other, and a GPU the processes, unless they share it by CUDA's MPS.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    concurrent = [flag for flag in flags if re.fullmatch(_CONCURRENT, flag, re.IGNORECASE)]
    shared = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", _MPS)
    if concurrent:
        cause, remedy = f"XLA_FLAGS has {concurrent[0]}", "leave that out"
    elif os.path.exists(os.path.join(shared, "control")):
        cause, remedy = f"CUDA's multi-process service runs, as {shared} shows", "end it"
    else:
        return None
    return (
        "Pallas() has blocks that wait for each other here, and beside a second such kernel they could wait forever: "
        f"{cause}; {remedy}, or use Fused() or Scan()"
    )


def _too_long(cell: GatedCell, recurrence: Recurrence, layouts: tuple[Any, ...], heads: int) -> str | None:
    """Returns in one sentence how many steps the kernels can index; None if the recurrence has no more.

    Args:
      cell: the cell.
      recurrence: that of one head.
      layouts: the layouts of the two kernels for it.
      heads: number of heads, whose arrays are one.
    """
    gates, hidden, batch, _ = sizes_of(cell, recurrence)
    # Entries of z for one hidden unit, of all steps and sequences; divided by their number below.
    per_step = [one_unit(leaf, hidden).size for leaf in jax.tree.leaves(recurrence.steps.z)]
    entries = max(gates, *(size // (recurrence.length * batch) for size in per_step))
    padded = heads * max(layout.tiles * layout.rows * layout.width for layout in layouts)
    most = _MOST_ENTRIES // (padded * entries) - 1  # the arrays have one step more than the sequence
    if recurrence.length <= most:
        return None
    return (
        f"Pallas() indexes with 32 bits, which allows at most {most} steps at once here, got {recurrence.length}; "
        "unroll the sequence in chunks, or use Fused() or Scan()"
    )


def _too_wide(cell: GatedCell, recurrence: Recurrence, heads: int, *, split: bool) -> str:
    """Returns in one sentence that the recurrent weight does not fit, and the nearest size that does.

    Args:
      cell: the cell.
      recurrence: that of one head.
      heads: number of heads.
      split: whether hidden units may be divided over several blocks.
    """
    gates, hidden, batch, dtype = sizes_of(cell, recurrence)
    # Both kernels have to fit, the forward one with one operand and the backward one with one for each gate.
    most = min(most_units(gates, parts, dtype.itemsize, batch, split=split) for parts in (1, gates))
    place = f"{MULTIPROCESSORS} blocks of {SHARED_MEMORY // 1024} KiB" if split else f"{SHARED_MEMORY // 1024} KiB"
    units = "hidden units" if heads == 1 else "hidden units a head"
    return (
        f"Pallas() holds the recurrent weight of {gates} gates in {place} of shared memory: with a batch of "
        f"{batch} in {dtype} at most {most} {units}, got {hidden}; make hidden_size or the batch smaller, "
        "or use Fused() or Scan()"
    )
