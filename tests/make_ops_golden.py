"""Makes tests/golden/ops.tsv: what the functions of ops.c should give, for tests/test_ops.c.

sin and cos come from mpmath with 60 digits, the rest from PyTorch in float64, applied to the same f32 inputs.
One line a case: name, parameters, inputs, expected values; numbers are C's hexadecimal floats, so nothing is rounded.
"""

import os

import mpmath
import numpy as np
import torch

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden", "ops.tsv")
LENGTHS = (1, 15, 16, 33, 70)


def numbers(x):
    return " ".join(float(v).hex() for v in np.asarray(x, dtype=np.float64).ravel())


def line(name, *parts):
    return "\t".join([name, *(numbers(p) for p in parts)]) + "\n"


def sines(draw):
    """Angles as rope has them: positions times frequencies; near multiples of pi/2, where little is left; the limits."""
    mpmath.mp.dps = 60
    x = [0.0, 1e-300, 1e-8, 1.0, 1e6, -1e6, 999999.5, np.pi, -np.pi / 2]
    x += [float(np.float32(p * f)) for p, f in zip(draw.integers(0, 1 << 13, 60), draw.uniform(1e-5, 1, 60))]
    x += [float(k) * np.pi / 2 for k in (1, 2, 3, 4, 5, 1000, 99999, 636619)]
    x += [float(k) * np.pi / 4 for k in (1, 3, 5, 7, 12345)]
    x += list(draw.uniform(-1e6, 1e6, 60))
    for v in x:
        yield line("sin", [v], [mpmath.sin(mpmath.mpf(v))])
        yield line("cos", [v], [mpmath.cos(mpmath.mpf(v))])


def vectors(draw):
    """Ordinary, large with a small spread, tiny, and with one element that outweighs all others."""
    for n in LENGTHS:
        yield draw.normal(size=n) * 3
        yield draw.normal(size=n) * 0.01 + 100
        yield draw.normal(size=n) * 1e-4
        x = draw.normal(size=n)
        x[n // 2] = 80
        yield x


def norms(draw):
    for x in vectors(draw):
        x, w, b = (np.float32(v) for v in (x, draw.normal(size=x.size), draw.normal(size=x.size)))
        tx, tw, tb = (torch.tensor(v, dtype=torch.float64) for v in (x, w, b))
        eps = np.float32(1e-5)
        rms = tw * (tx * torch.rsqrt(tx.pow(2).mean() + float(eps)))  # LlamaRMSNorm
        yield line("rmsnorm", [eps], x, w, rms)
        yield line("layernorm", [eps], x, w, b, torch.nn.functional.layer_norm(tx, (x.size,), tw, tb, float(eps)))


def activations(draw):
    for x in vectors(draw):
        x, up = np.float32(x), np.float32(draw.normal(size=x.size))
        tx, tup = torch.tensor(x, dtype=torch.float64), torch.tensor(up, dtype=torch.float64)
        for scale in (np.float32(0.125), np.float32(1.7)):
            yield line("softmax", [scale], x, torch.softmax(tx * float(scale), 0))
        yield line("gelu", x, torch.nn.functional.gelu(tx, approximate="tanh"))
        yield line("silu", x, up, torch.nn.functional.silu(tx) * tup)
    x = np.float32([-100, -87.5, -20, -5, -1, -1e-3, -1e-30, -0.0, 0, 1e-30, 1e-3, 1, 5, 20, 87.5, 100])
    tx = torch.tensor(x, dtype=torch.float64)
    yield line("gelu", x, torch.nn.functional.gelu(tx, approximate="tanh"))
    yield line("silu", x, np.ones_like(x), torch.nn.functional.silu(tx))


def ropes(draw):
    """The angle is rounded to f32 first, as in LlamaRotaryEmbedding; element j turns with element j + half."""
    for half in (1, 4, 32):
        inv_freq = np.float32(1 / 100000.0 ** (np.arange(half) / half))
        for position in (0, 1, 7, 1023, 8191):
            angle = torch.tensor((np.float32(position) * inv_freq).astype(np.float64)).repeat(2)
            x = np.float32(draw.normal(size=2 * half))
            tx = torch.tensor(x, dtype=torch.float64)
            turned = torch.cat((-tx[half:], tx[:half]))
            yield line("rope", [position], inv_freq, x, tx * angle.cos() + turned * angle.sin())


def main():
    draw = np.random.default_rng(5)
    with open(OUT, "w", encoding="ascii", newline="\n") as f:
        for part in (sines, norms, activations, ropes):
            f.writelines(part(draw))


if __name__ == "__main__":
    main()
