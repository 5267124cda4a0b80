import jax
import numpy as np
import pytest

from rnnjax.config import CellConfig
from rnnjax.config_file import get_config
from rnnjax.config_group import freeze
from rnnjax.errors import ConfigError
from rnnjax.models import SequenceClassifier
from rnnjax.tasks import mnist

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 28, 28)).astype(np.uint8)


def test_pixels_follow_one_another_as_they_are_read():
    sequence = np.asarray(mnist.pixels(IMAGES, None))
    assert sequence.shape == (2, 784, 1)
    np.testing.assert_allclose(sequence[1, 28 * 3 + 5, 0], IMAGES[1, 3, 5] / 255, rtol=1e-6)


def test_the_permutation_is_that_of_its_published_seed_for_every_image():
    order = np.random.RandomState(get_config("mnist:permuted_lru").permutation).permutation(784)
    assert sorted(order) == list(range(784))
    expected = IMAGES.reshape(2, 784)[:, order] / 255
    np.testing.assert_allclose(mnist.pixels(IMAGES, 0)[..., 0], expected, rtol=1e-6)


def test_the_mean_of_the_outputs_is_that_of_valid_steps():
    cell = CellConfig(kind="GRU", hidden_size=4)
    model = SequenceClassifier(mnist.build_cell(cell), 3, pooled=True)
    xs = jax.random.normal(jax.random.key(0), (2, 6, 3))
    variables = model.init(jax.random.key(1), xs)
    found = model.apply(variables, xs, lengths=np.array([6, 4]))
    np.testing.assert_allclose(found[1], model.apply(variables, xs[1:, :4])[0], rtol=1e-5, atol=1e-6)
    last = SequenceClassifier(mnist.build_cell(cell), 3).apply(variables, xs)
    assert not np.allclose(found[0], last[0])


def test_an_order_of_pixels_needs_pixels():
    with pytest.raises(ConfigError, match="permutation is of pixels; set pixels, or leave it out"):
        freeze(mnist.Config(permutation=0))


@pytest.mark.parametrize("variant", ["pixel_gru256", "pixel_lru", "permuted_gru256", "permuted_lru"])
def test_pixel_variants_read_784_steps(variant):
    config = freeze(get_config(f"mnist:{variant}"))
    assert config.pixels
    assert (config.permutation is not None) == variant.startswith("permuted")
