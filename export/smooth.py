"""Evens out what goes into the matrices of a calibrated q8 file, so that rounding it to int8 loses less.

Of a norm's outputs some channels are 30 times as large as the others, always the same ones, and each spoils the block that it
is rounded with. So every channel is divided by a factor where it is made, in a norm's weight or the rows of a matrix, and the
columns that read it are multiplied by the factor: the model says what it said (SmoothQuant: Xiao et al. 2022). The factor is
the square root of the channel's size in the calibration: half of the unevenness is left, half goes to the weights, which bear
it better. On SmolLM2-135M the divergence from f32 falls by half with it, from 0.0072 to 0.0035 (make bench-loss). The weights of
a q4 file cannot bear any: there it rises from 0.057 to 0.059 with the fourth root, and to 0.069 with the square root.
"""

from collections import namedtuple

import numpy as np

from source import SMOLVLM

POWER = 0.5
LEAST = 1e-3  # of the median: a channel that is never used needs no factor of its own

# Names of tensors. makers: whose outputs, row by row, or element by element of a vector, the readers take in column by
# column. repeats: each head of head_dim outputs is read so many times in turn (grouped-query attention).
Link = namedtuple("Link", "makers readers repeats head_dim")


def links(c, decoder):
    for i in range(c.n_layers):
        layer = f"{decoder}layers.{i}."
        attention, mlp = layer + "self_attn.", layer + "mlp."
        yield link(layer + "input_layernorm", [attention + p for p in ("q_proj", "k_proj", "v_proj")])
        yield link(attention + "v_proj", [attention + "o_proj"], c.n_heads // c.n_kv_heads, c.head_dim)
        yield link(layer + "post_attention_layernorm", [mlp + "gate_proj", mlp + "up_proj"])
        yield link(mlp + "up_proj", [mlp + "down_proj"])
    if not c.tied:
        yield link(decoder + "norm", ["lm_head"])
    for i in range(c.v_layers if c.family == SMOLVLM else 0):
        layer = f"model.vision_model.encoder.layers.{i}."
        attention = layer + "self_attn."
        yield link(layer + "layer_norm1", [attention + p for p in ("q_proj", "k_proj", "v_proj")], has_bias=True)
        yield link(attention + "v_proj", [attention + "out_proj"], has_bias=True)
        yield link(layer + "layer_norm2", [layer + "mlp.fc1"], has_bias=True)


def link(maker, readers, repeats=1, head_dim=1, has_bias=False):
    makers = [maker + ".weight"] + ([maker + ".bias"] if has_bias else [])
    return Link(makers, [r + ".weight" for r in readers], repeats, head_dim)


# What is known of a model's inputs: Moments of those of each matrix, and what rows and columns of tensors are multiplied by.
Calibration = namedtuple("Calibration", "moments rows columns", defaults=({}, {}, {}))


def smooth(c, decoder, moments):
    """The Calibration, whose moments are those of the inputs as they are with its factors."""
    rows, columns = {}, {}
    for wanted in links(c, decoder):
        found = moments.get(wanted.readers[0])
        if found is None:  # a calibration without pictures
            continue
        made, read = factors(np.sqrt(found.mean_squares()), wanted.repeats, wanted.head_dim)
        found.divide(read)
        rows.update((name, 1 / made) for name in wanted.makers)
        columns.update((name, read) for name in wanted.readers)
    return Calibration(moments, rows, columns)


def factors(size, repeats, head_dim):
    """For the channels that are made, and for those that are read; their geometric mean is 1."""
    size = np.maximum(size, max(LEAST * np.median(size), np.finfo(np.float32).tiny))
    logs = POWER * np.log(size.astype(np.float64))
    heads = (logs - logs.mean()).reshape(-1, repeats, head_dim).mean(1, keepdims=True)
    read = np.exp(np.broadcast_to(heads, (len(heads), repeats, head_dim)).reshape(-1))
    return np.exp(heads.reshape(-1)).astype(np.float32), read.astype(np.float32)


def smoothed(x, name, first, is_vector, calibration):
    """Rows of a tensor, from row first on, with their factors. The elements of a vector, which is one row, count as rows."""
    rows, columns = calibration.rows.get(name), calibration.columns.get(name)
    if columns is not None:
        x = x * columns
    if rows is not None:
        x = x * (rows if is_vector else rows[first:first + len(x), None])
    return x
