"""Strict numerics for every test: silent promotion and low-precision products are errors."""

import itertools
import os
import zlib
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

# Most of the time goes into compiling, most of that into making code fast that runs once; and
# LAPACK's threads wait in a loop, at the expense of the other workers. Set here, both reach
# the workers and the processes that tests start. What XLA_FLAGS says already comes last and
# counts, so that CONTRIBUTING's command tests the code that users run. From JAX 0.11 on all do:
# one of the flags is going, and the other alone saves a quarter, at a cost in rounding.
if version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
        + os.environ.get("XLA_FLAGS", "")
    )
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jaxtyping
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")

# Compiler options where a test needs the rounding of the code that users run.
AS_FOR_USERS = (
    {"xla_cpu_use_fusion_emitters": True}
    if "emitters" in os.environ.get("XLA_FLAGS", "")
    else {}
)

TESTS = itertools.count(1)
MAPS = Path("/proc/self/maps")


@pytest.fixture
def rng(request):
    """Random numbers of the test's own, the same on every run."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(autouse=True)
def few_programs():
    """Let compiled programs go once they are many: ten thousand memory maps are some 2.5 GB.

    A process may have 65,000 of them. Until then what one test compiled serves the others.
    """
    yield
    if next(TESTS) % 50 == 0 and (not MAPS.exists() or MAPS.read_text().count("\n") > 10_000):
        jax.clear_caches()


@pytest.fixture
def as_a_user():
    """Turn jaxtyping's checks off, so that the library's own messages are what is tested."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


class _AsInstalled:
    """What users read and do, whose numbers have 32 bits and are promoted."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        of_users = ("README.md", "lintoolkit/tour.md", "tests/test_tasks.py")
        as_users = item.nodeid.startswith(of_users)
        promoted = jax.numpy_dtype_promotion("standard") if as_users else nullcontext()
        with jax.enable_x64(not as_users), promoted:  # a fixture may have said otherwise
            return (yield)


def pytest_configure(config):
    config.pluginmanager.register(_AsInstalled())
