"""Reading config files, as the tests of configs do it."""

from rnnjax.config_flags import read_config

MNIST = "configs/mnist.py"


def read(*arguments, config=MNIST):
    return read_config(["--config", config, *arguments])[0]
