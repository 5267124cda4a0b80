"""Every test runs with two CPU devices, so that a split over devices is a split."""

import jax

jax.config.update("jax_num_cpu_devices", 2)
