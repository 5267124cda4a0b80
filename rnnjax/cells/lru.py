"""The linear recurrent unit, a diagonal recurrence of complex numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.cell import Key
from rnnjax.cells.linear_cell import LinearCell
from rnnjax.cells.pairs import Complex
from rnnjax.cells.projecting import product, project
from rnnjax.cells.sizes import Size, check_size, keep_sizes
from rnnjax.dtypes import at_least_float32


class LRUParams(NamedTuple):
    """Parameters, real and imaginary parts being two gates: ``w_x [I, 2, H]`` (B) and ``w_y [2, H, O]`` (C).

    ``nu [H]``, ``theta [H]`` and ``gamma [H]`` are the logarithms of decay, phase and normalisation. ``d [O]`` is the
    weight of the inputs in the outputs, None where they are not of one size.
    """

    w_x: Array
    nu: Array
    theta: Array
    gamma: Array
    w_y: Array
    d: Array | Any


class LRUZs(NamedTuple):
    """What the steps read: the projected inputs ``[*N, 2, H]``, and ``d * x [*N, O]`` or None."""

    projected: Array
    skipped: Array | None


@dataclasses.dataclass(frozen=True)
class LRU(LinearCell):
    """The linear recurrent unit (Orvieto et al., 2023, "Resurrecting recurrent neural networks for long sequences").

    lambda = exp(-exp(nu) + i exp(theta))
    h' = lambda * h + exp(gamma) * (x B)
    y = Re(h' C) + d * x             the last term where inputs have as many features as outputs

    with complex lambda, h, B and C, computed as pairs of reals. As published, lambda is uniform on the ring between
    `smallest_radius` and `largest_radius`, of phases up to `largest_phase`; exp(gamma) is sqrt(1 - |lambda|^2) at
    first, the normalisation that keeps the states' size; B is normal with variance 1 / 2I, C with 1 / H, d with 1.
    The paper's block puts a normalisation before, and a gated linear layer and a residual after it. Parameters are
    `LRUParams`, the state is `Complex`.

    Attributes:
      size: number O of outputs; None: H.
      smallest_radius, largest_radius: of the ring, in [0, 1].
      largest_phase: in radians.

    Raises:
      ValueError: unless 0 <= smallest_radius < largest_radius <= 1 and largest_phase is positive.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LRU(8, size=3, smallest_radius=0.9, largest_radius=0.999)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Associative())
      >>> ys.shape, state.real.shape, state.imag.shape
      ((2, 5, 3), (2, 8), (2, 8))
    """

    # As published, without a choice: see `init`.
    kernel_init: Any = dataclasses.field(default="normal", init=False, repr=False)
    bias_init: Any = dataclasses.field(default="zeros", init=False, repr=False)
    use_bias: bool = dataclasses.field(default=False, init=False, repr=False)
    size: int | None = None
    smallest_radius: float = 0.0
    largest_radius: float = 1.0
    largest_phase: float = 2 * math.pi

    gate_count: ClassVar[int] = 2  # the real and the imaginary part
    inputs_by_step: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        keep_sizes(self, optional=("size",))
        if not 0 <= self.smallest_radius < self.largest_radius <= 1:
            raise ValueError(
                "the ring needs 0 <= smallest_radius < largest_radius <= 1, "
                f"got {self.smallest_radius} and {self.largest_radius}"
            )
        if not self.largest_phase > 0:
            raise ValueError(f"largest_phase must be positive, got {self.largest_phase}")

    @property
    def output_size(self) -> int:
        return self.size or self.hidden_size

    def init(self, key: PRNGKeyArray, input_size: Size) -> LRUParams:
        inputs, outputs = check_size("input_size", input_size), self.output_size
        k_b, k_nu, k_theta, k_c, k_d = jax.random.split(key, 5)
        return LRUParams(
            self._normal(k_b, (inputs, 2, self.hidden_size), 1 / (2 * inputs)),
            *self._ring(k_nu, k_theta),
            self._normal(k_c, (2, self.hidden_size, outputs), 1 / self.hidden_size),
            self._normal(k_d, (outputs,), 1.0) if inputs == outputs else None,
        )

    def _normal(self, key: PRNGKeyArray, shape: tuple[int, ...], variance: float) -> Array:
        draw = jax.random.normal(key, shape, at_least_float32(self.param_dtype))
        return (math.sqrt(variance) * draw).astype(self.param_dtype)

    def _ring(self, k_nu: PRNGKeyArray, k_theta: PRNGKeyArray) -> tuple[Array, Array, Array]:
        """Returns nu, theta and gamma of numbers that are uniform on the ring."""
        dtype, shape = at_least_float32(self.param_dtype), (self.hidden_size,)
        # Above zero and below one: their logarithms are taken, those of 1 - |lambda|^2 too.
        least, most = max(self.smallest_radius**2, 1e-7), min(self.largest_radius**2, 1 - 1e-6)
        squared = jax.random.uniform(k_nu, shape, dtype, least, most)
        phase = self.largest_phase * jax.random.uniform(k_theta, shape, dtype, 1e-7, 1)
        logarithms = jnp.log(-0.5 * jnp.log(squared)), jnp.log(phase), 0.5 * jnp.log1p(-squared)
        nu, theta, gamma = (each.astype(self.param_dtype) for each in logarithms)
        return nu, theta, gamma

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Complex:
        return Complex(*(self.zeros(batch_size, self.hidden_size, dtype) for _ in range(2)))

    def inputs(self, params: LRUParams, xs: Float[Array, "*N I"], *, key: Key = None) -> LRUZs:
        projected = project(self.affine_inputs(params)[0], xs, self.dtype)
        if params.d is None:
            return LRUZs(projected, None)
        d, xs = params.d.astype(projected.dtype), xs.astype(projected.dtype)
        return LRUZs(projected, jnp.broadcast_to(d, xs.shape) * xs)  # so that its gradient is one sum

    def affine_inputs(self, params: LRUParams) -> tuple[Array, None]:
        return params.w_x * jnp.exp(params.gamma), None

    def coefficients(self, params: LRUParams, zs: LRUZs) -> tuple[Complex, Complex]:
        nu, theta = (each.astype(zs.projected.dtype) for each in (params.nu, params.theta))
        radius, phase = jnp.exp(-jnp.exp(nu)), jnp.exp(theta)
        factor = Complex(radius * jnp.cos(phase), radius * jnp.sin(phase))
        return factor, Complex(zs.projected[..., 0, :], zs.projected[..., 1, :])

    def read(self, params: LRUParams, state: Complex, z: LRUZs) -> Array:
        """Returns real and imaginary parts, and ``d * x`` if there is one, side by side."""
        parts = state if z.skipped is None else (*state, z.skipped)
        return jnp.concatenate([part.astype(z.projected.dtype) for part in parts], -1)

    def affine_outputs(self, params: LRUParams) -> tuple[Array, Array | None]:
        real, imag = params.w_y
        return jnp.stack([real, -imag]), params.d

    def outputs(self, params: LRUParams, ys: Float[Array, "*N K"]) -> Float[Array, "*N O"]:
        states, skipped = ys[..., : 2 * self.hidden_size], ys[..., 2 * self.hidden_size :]
        real, imag = params.w_y
        read = product(states, jnp.concatenate([real, -imag]).astype(ys.dtype))
        return read if params.d is None else read + skipped
