"""Rows of f32 to the bytes of Q8 and Q4 panels (FORMAT.md, "Tensor types").

A block is a run of columns that share a scale. Its scale and quants minimise the sum over its columns of
importance * (weight - scale * level)^2. For given quants the best scale is a quotient of two sums, for a given scale the
best quants are the nearest levels; a short search over scales starts these two steps from several places. Arithmetic is
elementwise f32 and sums in a fixed order: the same weights give the same bytes on every machine.
"""

from collections import namedtuple

import numpy as np

PANEL = 16  # rows

# Q4's levels: the fixed point of Lloyd's iteration, joint with the search below, over weights that are normally distributed,
# the demonstration model's, and SmolLM2-135M's (each alone gives these numbers within 1). The table is not symmetric: a
# scale may be negative, so the longer side serves whichever sign the block's largest weight has.
LEVELS = np.array([-127, -100, -78, -60, -46, -33, -21, -9, 2, 13, 24, 36, 49, 64, 82, 106], np.int8)

# Where the search starts: the largest weight of a block lies this far out, in units of its largest quant or level.
Q8_REACH = np.linspace(1, 0.968, 9, dtype=np.float32)
Q4_REACH = np.array([0.76, 0.82, 0.88, 0.94, 1.0, 1.06, 1.14, 1.22], np.float32)

# Nearest level of a number in units of the scale, looked up by floor(2 x): midpoints of levels are multiples of 1/2.
HALVES = np.arange(-512, 512) + 0.5
NEAREST = np.abs(HALVES[:, None] / 2 - LEVELS).argmin(1).astype(np.uint8)
LEVEL_AT = LEVELS[NEAREST].astype(np.float32)

ROWS, COLS = 256, 256  # of the piece that is worked on at once: what fits a processor's cache
TINY = np.float32(1e-30)
NOISE, OWN_NOISE = 0.01, 0.3  # of the inputs, relative to the mean square of all, and of each

# columns of a block; bits of a quant; the quant where there is no weight; three functions, see below
Type = namedtuple("Type", "block bits empty scale nearest pack")


def quantize(x, q, importance=None, spread=None):
    """(rows, columns) f32 to the bytes of panels of type q. importance: a number >= 0 for each column, or None; spread: what
    inverse_root() gives, or None."""
    n_rows, n_cols = x.shape
    rows, cols = -(-n_rows // PANEL) * PANEL, -(-n_cols // q.block) * q.block
    t = np.zeros((cols, rows), np.float32)
    t[:n_cols, :n_rows] = x.T
    if spread is None:
        w = np.zeros(cols, np.float32)  # columns that are not there do not count
        w[:n_cols] = 1 if importance is None else importance
        scales, quants = rounded(t, q, w)
    else:
        scales, quants = compensated(t, q, spread)
    return pack(q, scales, quants, n_rows, n_cols)


def rounded(t, q, w):
    """Every block by itself. t: (columns, rows), w: (columns,)."""
    scales = np.empty((len(t) // q.block, t.shape[1]), np.float16)
    quants = np.empty(t.shape, np.uint8)
    for c in range(0, t.shape[0], COLS):
        for r in range(0, t.shape[1], ROWS):
            some = np.ascontiguousarray(t[c:c + COLS, r:r + ROWS])
            blocks = some.reshape(-1, q.block, some.shape[1])  # (n_blocks, block, rows): sums over axis 1 are elementwise adds
            scale = q.scale(blocks, w[c:c + COLS].reshape(-1, q.block, 1)).astype(np.float16)
            scales[c // q.block:(c + COLS) // q.block, r:r + ROWS] = scale[:, 0]
            quants[c:c + COLS, r:r + ROWS] = q.nearest(blocks, scale.astype(np.float32))[0].reshape(some.shape)
    return scales, quants


def compensated(t, q, spread):
    """Column after column; what rounding one of them changes in the matrix' outputs, the columns that follow make up for as
    well as they can (GPTQ: Frantar et al. 2022). Row j of spread says by how much each of them moves. Changes t."""
    scales = np.zeros((len(t) // q.block, t.shape[1]), np.float16)
    quants = np.full(t.shape, q.empty, np.uint8)
    for c in range(0, len(spread), q.block):
        end = min(c + q.block, len(spread))
        u, some = spread[c:end], t[c:end]
        weight = 1 / u.diagonal(c) ** 2
        scale = q.scale(some[None], weight[None, :, None]).astype(np.float16)[0]
        error = np.empty_like(some)
        for j in range(end - c):
            quants[c + j], level = q.nearest(some[j], scale[0].astype(np.float32))
            error[j] = (some[j] - scale[0] * level) / u[j, c + j]
            some[j + 1:] -= u[j, c + j + 1:end, None] * error[j]
        t[end:len(spread)] -= u[:, end:].T @ error
        scales[c // q.block] = scale[0]
    return scales, quants


def inverse_root(moments):
    """From the second moments of a matrix' inputs, (n_cols, n_cols): the upper triangular root of their inverse. Some noise
    is added to the inputs, without which rare ones would not count at all, and what the calibration saw some of them have in
    common would be trusted too far: on texts of another kind and on unseen pictures a quarter to a third less is lost."""
    h = moments.astype(np.float64) / max(np.trace(moments) / len(moments), TINY)
    h[np.diag_indices_from(h)] += NOISE + OWN_NOISE * h.diagonal()
    return np.linalg.cholesky(np.linalg.inv(h)).T.astype(np.float32)


def size(q, n_rows, n_cols):
    """Bytes of a matrix."""
    n_blocks = -(-n_cols // q.block)
    return -(-n_rows // PANEL) * (-(-n_blocks // 2) * 64 + n_blocks * q.block * PANEL * q.bits // 8)


# ---- scale and quants of blocks ----

class Best:
    """The best scale found so far for each block, by the error it removes."""

    def __init__(self, x, w):
        self.w, self.wx = w, w * x
        self.gain = np.zeros(x[:, :1].shape, np.float32)
        self.scale = np.zeros_like(self.gain)

    def consider(self, level):
        """Levels for every weight: the least-squares scale a / b removes a^2 / b of the block's error."""
        a = (self.wx * level).sum(1, keepdims=True)
        b = np.maximum((self.w * level * level).sum(1, keepdims=True), TINY)
        gain = a * a / b
        better = gain > self.gain
        self.gain = np.where(better, gain, self.gain)
        self.scale = np.where(better, a / b, self.scale)


def largest(x):
    """Each block's weight of largest magnitude, with its sign."""
    high, low = x.max(1, keepdims=True), x.min(1, keepdims=True)
    return np.where(high >= -low, high, low)


def over(scale):
    """1 / scale, and 0 where the scale is 0 or as good as that."""
    small = np.abs(scale) < TINY
    return np.where(small, np.float32(0), 1 / np.where(small, np.float32(1), scale))


def scale_q8(x, w):
    """(n_blocks, 64, rows) to (n_blocks, 1, rows), the scales."""
    best = Best(x, w)
    inverse = over(np.abs(largest(x)) / np.float32(127))
    for reach in Q8_REACH:
        best.consider(levels_q8(x, inverse * reach))
    return best.scale


def levels_q8(x, inverse):
    return np.clip(np.rint(x * inverse), -127, 127)


def nearest_q8(x, scale):
    """Bytes of quants, and their levels."""
    level = levels_q8(x, over(scale))
    return (level + 128).astype(np.uint8), level


def scale_q4(x, w):
    """(n_blocks, 32, rows) to (n_blocks, 1, rows), the scales."""
    best = Best(x, w)
    inverse = over(largest(x))
    for end in (LEVELS[0], LEVELS[-1]):
        for reach in Q4_REACH:
            best.consider(LEVEL_AT[halves(x, inverse * (end * reach))])
    for _ in range(2):
        best.consider(LEVEL_AT[halves(x, over(best.scale))])
    return best.scale


def halves(x, inverse):
    """Index into NEAREST and LEVEL_AT."""
    key = np.floor(x * (inverse * 2))
    return (np.clip(key, -512, 511) + 512).astype(np.intp)


def nearest_q4(x, scale):
    """Indices, and their levels."""
    key = halves(x, over(scale))
    return np.where(scale == 0, np.uint8(0), NEAREST[key]), LEVEL_AT[key]


# ---- panels ----

def pack_scales(scales):
    """(n_blocks, rows) f16 to (n_panels, bytes), each panel's padded to a multiple of 64."""
    n_blocks, rows = scales.shape
    out = np.zeros((rows // PANEL, -(-n_blocks // 2) * 2, PANEL), "<f2")
    out[:, :n_blocks] = scales.reshape(n_blocks, -1, PANEL).transpose(1, 0, 2)
    return out.reshape(len(out), -1).view(np.uint8)


def pack(q, scales, quants, n_rows, n_cols):
    """Scales (n_blocks, rows) and quants (columns, rows), whole panels and blocks of them, to the bytes of the file."""
    scales[:, n_rows:] = 0
    quants[:, n_rows:], quants[n_cols:] = q.empty, q.empty
    cols, rows = quants.shape
    return np.concatenate([pack_scales(scales), q.pack(quants, cols, rows // PANEL)], 1).reshape(-1)


def pack_q8(quants, cols, n_panels):
    steps = quants.reshape(cols // 4, 4, n_panels, PANEL).transpose(2, 0, 3, 1)  # (panel, c / 4, row, c % 4)
    return steps.reshape(n_panels, -1)


def pack_q4(quants, cols, n_panels):
    steps = quants.reshape(cols // 8, 2, 4, n_panels, PANEL).transpose(3, 0, 4, 2, 1)  # (panel, c / 8, row, c % 4, half)
    return (steps[..., 0] | steps[..., 1] << 4).reshape(n_panels, -1)


Q8 = Type(64, 8, 128, scale_q8, nearest_q8, pack_q8)
Q4 = Type(32, 4, 0, scale_q4, nearest_q4, pack_q4)
