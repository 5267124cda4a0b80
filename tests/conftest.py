"""Every test runs with two CPU devices, so that a split over devices is a split."""

import contextlib
import gc
import importlib.util
import os
import shutil
import signal
import sys
import tempfile

import jax
import pytest

_ANNOTATIONS = ["fixtures.annotations"] if importlib.util.find_spec("beartype") else []

_FIXTURES = ("checkpoints", "commands", "fuzzing", "originals", "shared_programs", "training")
pytest_plugins = [*(f"fixtures.{name}" for name in _FIXTURES), *_ANNOTATIONS]

jax.config.update("jax_num_cpu_devices", 2)

# A shell has what it starts in the background ignore Ctrl-C, and so would the commands that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# XLA reads its flags once. It takes longer over fused loops, and over modules cut in pieces, than these small programs
# run; a flag that a version does not know would end the process.
_QUICKLY = {
    (0, 10): "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    (0, 12): "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE",
}
if _QUICKLY.get(jax.__version_info__[:2]):  # flags that are blank are taken for a file's name
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICKLY[jax.__version_info__[:2]]}"

# Tracing makes many objects, few of them garbage, and notes for each where in the source it comes from.
gc.set_threshold(100_000, 50, 100)
jax.config.update("jax_traceback_in_locations_limit", 0)

# The folder whose programs are timed and weighed; elsewhere they are small, and take longer to optimise than to run.
_OPTIMISED = "benchmarks"


# Folders whose tests name files from the root of the repository.
_FROM_THE_ROOT = ("config", "fuzz")

# Folders whose tests train, which Optax's Adam does with a decay to the power of a whole number, or run kernels, where
# states are kept in a wider type than the products.
_PROMOTING = ("benchmarks", "commands", "docs", "kernels", "parallel", "tasks", "training")


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="run also what shows a claim once more, by another way")


def pytest_collection_modifyitems(config, items):
    """Leaves out what is marked `thorough`: a claim for one feed, map or number of processes, shown for another."""
    if config.getoption("--thorough"):
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]


def pytest_configure(config):
    """What commands keep between runs is kept for this session of tests only, by all of its processes.

    Methods that were measured on this machine are left unread, but in tests of that.
    """
    os.environ["RNNJAX_TUNE"] = "0"
    config.addinivalue_line("markers", "thorough: shows a claim once more, another way; for --thorough")
    config.addinivalue_line("markers", "promotes_types: the types that meet in this test are different on purpose")
    if "RNNJAX_CACHE" not in os.environ:
        config.own_cache = os.environ["RNNJAX_CACHE"] = tempfile.mkdtemp(prefix="rnnjax-cache-")


def pytest_sessionstart(session):
    """What reads of damaged checkpoints leave behind, in threads of their own, fails no test."""
    from rnnjax.commands import leave_out_reads_given_up

    leave_out_reads_given_up(sys.unraisablehook)
    if not _ANNOTATIONS:  # as on a machine with little installed, where kernels' tests are run
        return
    from fixtures.annotations import hold_annotations

    import rnnjax.interop
    import rnnjax.models
    import rnnjax.nn

    hold_annotations([rnnjax, rnnjax.interop, rnnjax.models, rnnjax.nn])


def pytest_collection_finish(session):
    """Holds annotations of packages whose modules the tests that are collected have imported by now."""
    gc.freeze()  # what is imported by now stays
    if not _ANNOTATIONS:
        return
    from fixtures.annotations import hold_annotations_in

    tests = {item.module for item in session.items if hasattr(item, "module")}
    hold_annotations_in(["rnnjax.parallel", "rnnjax.training", "rnnjax.unrolling.kernels"], tests)


def pytest_unconfigure(config):
    if hasattr(config, "own_cache"):
        shutil.rmtree(config.own_cache, ignore_errors=True)


@contextlib.contextmanager
def _without_optimisations():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def _promoting_no_types(request):
    """Refuses implicit promotion of types, but where a test is of the one that is meant.

    Gates read z in the type of the products and a state that is wider: both become the wider type, in a user's own
    cell as well, without a word of it in the equations. Ranks are promoted everywhere, for the same reason: parameters
    ``[G, H]`` meet states with any number of batch axes.
    """
    meant = request.node.get_closest_marker("promotes_types") or request.path.parent.name in _PROMOTING
    with jax.numpy_dtype_promotion("standard" if meant else "strict"):
        yield


@pytest.fixture(autouse=True)
def _in_the_repository(request, monkeypatch):
    if request.path.parent.name in _FROM_THE_ROOT:
        monkeypatch.chdir(request.config.rootpath)


@pytest.fixture(autouse=True)
def _compiled_quickly(request, monkeypatch):
    """Compiles without LLVM's optimisations, here and in the commands that a test starts."""
    if request.path.parent.name == _OPTIMISED:
        yield
        return
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    with _without_optimisations():
        yield


@pytest.fixture(scope="module")
def compiled_quickly():
    """Does the same for a file of benchmarks' tests in which no time is looked at but for its sign."""
    with _without_optimisations():
        yield
