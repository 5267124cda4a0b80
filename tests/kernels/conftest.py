"""The annotations of the kernels are held to be true in the tests of this folder, which alone import all of them."""

import pytest
from fixtures.kernel_modules import KERNEL_MODULES


@pytest.fixture(autouse=True, scope="session")
def _kernels_annotations_hold():
    pytest.importorskip("beartype")
    from fixtures.annotations import hold_annotations_in

    hold_annotations_in(KERNEL_MODULES)
