"""Q8 and Q4: what export/quantize.py writes, read back by smol_file.py."""

import itertools
import os
import sys

import numpy as np
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "export")]

import quantize  # noqa: E402
from smol_file import Q4, Q8, dequantised, levels  # noqa: E402

TYPES = {Q8: quantize.Q8, Q4: quantize.Q4}
both = pytest.mark.parametrize("kind", TYPES)


def there_and_back(x, kind, importance=None):
    x = np.asarray(x, np.float32)
    data = quantize.quantize(x, TYPES[kind], importance)
    assert data.dtype == np.uint8 and len(data) == quantize.size(TYPES[kind], *x.shape)
    return dequantised(kind, data.tobytes(), *x.shape)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)


def test_the_page_and_the_exporter_agree():
    assert (quantize.LEVELS == levels()).all() and (np.diff(levels()) > 0).all()


@both
@pytest.mark.parametrize("shape", [(1, 1), (16, 64), (17, 63), (15, 65), (33, 300), (300, 33), (257, 256), (16, 4304)])
def test_shapes(kind, shape):
    """Every element comes back where it was: the error is far below what any other element would give."""
    x = normal(*shape)
    error = there_and_back(x, kind) - x
    assert np.abs(error).max() < {Q8: 0.02, Q4: 0.2}[kind] * np.abs(x).max()
    if x.size > 10000:
        assert np.mean(error ** 2) < {Q8: 3.3e-5, Q4: 6e-3}[kind] * np.mean(x ** 2)


@both
def test_what_is_exact(kind):
    """Multiples of a scale come back as they were, of either sign and at both ends of the range."""
    table = levels() if kind == Q4 else np.arange(-127, 128)
    block = TYPES[kind].block
    rng = np.random.default_rng(1)
    for scale in (2.0 ** -24, 2.0 ** -10, -0.25, 3.0, 4096.0):
        x = rng.choice(table, (16, 2 * block)) * np.float32(scale)
        x[:, ::block] = np.array(table[0] if kind == Q4 else 127) * np.float32(scale)
        assert (there_and_back(x, kind) == x).all(), scale
