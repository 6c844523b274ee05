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


@both
def test_blocks_at_the_edge(kind):
    """Zeros, what a scale cannot hold, one large weight among small ones; a block's neighbours do not matter to it."""
    block = TYPES[kind].block
    x = np.zeros((7, 3 * block), np.float32)
    x[:, block:2 * block] = normal(7, block, seed=2)
    x[1, 0], x[2, 5] = 1e-45, -1e-12  # the scale of such a block is no f16
    x[3, :block] = 1e-3 * normal(1, block, seed=3)  # the scale is one of the last f16 before 0
    x[4, :block] = 1e-2 * normal(1, block, seed=4)
    x[4, 7] = -9e5
    x[5, :block] = 0.02
    x[6, 2 * block:] = np.tile([0.02, -0.02], block // 2)
    y = there_and_back(x, kind)
    assert not y[:3, :block].any() and not y[:6, 2 * block:].any()
    assert 0 < np.abs(y[3, :block] - x[3, :block]).max() < 0.2 * np.abs(x[3, :block]).max()
    assert abs(y[4, 7] / x[4, 7] - 1) < 0.01 and np.abs(np.delete(y[4, :block], 7)).max() < 9e5 * 0.02
    assert np.abs(y[5, :block] / 0.02 - 1).max() < 0.001
    assert np.abs(y[6, 2 * block:] / x[6, 2 * block:] - 1).max() < {Q8: 0.001, Q4: 0.1}[kind]
    for r, c in itertools.product(range(7), range(3)):
        alone = there_and_back(x[r:r + 1, c * block:(c + 1) * block], kind)
        assert (alone == y[r:r + 1, c * block:(c + 1) * block]).all()


def least_error(x, w, table):
    """Of one block, over a fine grid of scales."""
    reach = np.concatenate([np.linspace(0.5, 2, 501)] * 2)[:, None]
    scale = np.where(np.arange(len(reach)) % 2, -1, 1)[:, None] * np.abs(x).max() / np.abs(table).max() / reach
    middle = (table[1:] + table[:-1]) / 2
    level = table[np.searchsorted(middle, x / scale)]
    scale = ((w * level * x).sum(1) / (w * level ** 2).sum(1)).astype(np.float16).astype(float)[:, None]
    return (w * (x - scale * level) ** 2).sum(1).min()


@both
@pytest.mark.parametrize("weighed", [False, True])
def test_the_search_against_all_scales(kind, weighed):
    table = (levels() if kind == Q4 else np.arange(-127, 128)).astype(float)
    rng = np.random.default_rng(5)
    ratios = []
    for i in range(40):
        x = (rng.normal(size=TYPES[kind].block) if i % 2 else rng.standard_t(3, TYPES[kind].block)).astype(np.float32)
        w = rng.uniform(0, 2, len(x)) ** 2 if weighed else np.ones(len(x))
        y = there_and_back(x[None], kind, w if weighed else None)[0]
        ratios.append((w * (y - x) ** 2).sum() / least_error(x.astype(float), w, table))
    assert np.mean(ratios) < {Q8: 1.4, Q4: 1.1}[kind] and max(ratios) < {Q8: 2, Q4: 1.4}[kind], ratios


@both
def test_importance(kind):
    """Columns that matter a hundred times as much come out better, the others worse."""
    x, importance = normal(64, 320), np.ones(320)
    importance[::5] = 100
    plain = np.square(there_and_back(x, kind) - x).mean(0)
    weighed = np.square(there_and_back(x, kind, importance) - x).mean(0)
    assert weighed[::5].mean() < 0.95 * plain[::5].mean()
    assert (there_and_back(x, kind, 8 * np.ones(320)) == there_and_back(x, kind)).all()


@both
@pytest.mark.parametrize("n_cols", [320, 333])
def test_compensation(kind, n_cols):
    """Where inputs depend on each other, outputs come out better, also for inputs that were not seen; where they do not, little
    changes."""
    rng = np.random.default_rng(6)
    mixed = rng.normal(size=(40, n_cols))
    x, (seen, new) = normal(48, n_cols), (rng.normal(size=(n, 40)) @ mixed + rng.normal(size=(n, n_cols)) for n in (2000, 500))
    data = quantize.quantize(x, TYPES[kind], spread=quantize.inverse_root(seen.T @ seen / len(seen)))
    y = dequantised(kind, data.tobytes(), *x.shape)
    error, plain = np.linalg.norm(new @ (y - x).T), np.linalg.norm(new @ (there_and_back(x, kind) - x).T)
    assert error < 0.6 * plain, (error, plain)
    data = quantize.quantize(x, TYPES[kind], spread=quantize.inverse_root(np.eye(n_cols, dtype=np.float32)))
    error = np.linalg.norm(dequantised(kind, data.tobytes(), *x.shape) - x)
    assert 0.99 < error / np.linalg.norm(there_and_back(x, kind) - x) < 1.01


@both
def test_inputs_that_never_come(kind):
    """Moments without full rank: columns that were always zero, and far fewer examples than columns."""
    rng = np.random.default_rng(7)
    seen = rng.normal(size=(5, 100)).astype(np.float32)
    seen[:, 50:] = 0
    for moments in (seen.T @ seen, np.zeros((100, 100), np.float32)):
        x = normal(20, 100)
        data = quantize.quantize(x, TYPES[kind], spread=quantize.inverse_root(moments))
        assert np.abs(dequantised(kind, data.tobytes(), 20, 100) - x).max() < {Q8: 0.02, Q4: 0.5}[kind] * np.abs(x).max()


@both
def test_one_piece_or_many(kind):
    """The result does not depend on how the rows are cut up."""
    x = normal(600, 700, seed=8)
    whole = quantize.quantize(x, TYPES[kind]).reshape(-1)
    parts = [quantize.quantize(x[r:r + 48], TYPES[kind]) for r in range(0, 600, 48)]
    assert (whole == np.concatenate(parts)).all()
