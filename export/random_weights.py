"""Random weights in place of a checkpoint: files of any shape and type for benchmarks and comparisons.

Every matrix keeps the size of what it multiplies, so that activations stay as tame as a trained model's. Q8 and Q4 are
drawn as scales and quants, which is a hundred times faster than drawing and quantising floats.
"""

import zlib

import numpy as np

import quantize


class RandomWeights:
    def __init__(self, seed):
        self.seed = seed

    def generator(self, name):
        return np.random.Generator(np.random.SFC64([self.seed, zlib.crc32(name.encode())]))

    def rows(self, name, shape, step):
        """As Checkpoint.rows() does. Norms are near 1, biases near 0."""
        random = self.generator(name)
        if len(shape) == 1:
            yield random.normal("norm" in name and name.endswith("weight"), 0.1, (1, shape[0])).astype(np.float32)
            return
        n_cols = int(np.prod(shape[1:]))
        for r in range(0, shape[0], step):
            n_rows = min(step, shape[0] - r)
            yield random.standard_normal((n_rows, n_cols), np.float32) * np.float32(n_cols ** -0.5)

    def panels(self, t, step, q):
        """A matrix as panels of Q8 or Q4: quants evenly distributed, scales within a factor of 2, Q4's of either sign."""
        random = self.generator(t.name)
        values = np.arange(-127, 128) if q is quantize.Q8 else quantize.LEVELS.astype(float)
        typical = t.n_cols ** -0.5 / np.sqrt((values ** 2).mean())
        cols = -(-t.n_cols // q.block) * q.block
        for r in range(0, t.n_rows, step):
            n_rows = min(step, t.n_rows - r)
            rows = -(-n_rows // quantize.PANEL) * quantize.PANEL
            scales = (typical * random.uniform(0.7, 1.4, (cols // q.block, rows))).astype(np.float16)
            if q is quantize.Q4:
                np.negative(scales, out=scales, where=random.integers(2, size=scales.shape, dtype=bool))
            low, high = (1, 256) if q is quantize.Q8 else (0, 16)
            quants = random.integers(low, high, (cols, rows), np.uint8)
            yield quantize.pack(q, scales, quants, n_rows, t.n_cols)
