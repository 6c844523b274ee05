"""What the parity tests run: models, pictures, conversations. Everything here is a formula or a number, so that every
machine makes the same files.

CONFIGS are nine tiny models of random weights. Within each, all dimensions differ, so that a swapped axis cannot pass;
between them they cover what a SmolVLM file may be: 1 to 17 tiles, two pictures and none, 22 to 2073 tokens, scale
factors 1 to 4, patches of 8 to 16 with and without pixels left over, tied and untied heads, 1 to 7 query heads to a
key-value head, head sizes that are not dim / heads, vocabularies with and without tile tokens, both architectures, old
and new files, f32 and bf16.

REAL_SHAPES have one layer of each kind in the exact dimensions of the published models, and a small vocabulary.
"""

from collections import namedtuple

import numpy as np

Config = namedtuple("Config", "name model pictures text system tiling", defaults=(None, True))

# Most of a decoder's mistakes with positions show only far from the first.
LONG = " ".join(f"Frame from {i // 60:02d}:{i % 60:02d}: {i * i} stars." for i in range(130))

CONFIGS = [
    Config("base", dict(seed=1), [(50, 70)], "What is written on the sign? 42.50"),
    Config("tiles17", dict(
        image_size=32, patch_size=8, scale_factor=2, v_dim=30, v_heads=5, v_layers=3, v_hidden_dim=44,
        dim=36, n_heads=6, n_kv_heads=6, head_dim=10, hidden_dim=68, n_layers=2, vocab_size=638, tie=True,
        rope_theta=130000.0, seed=13), [(80, 80)], "How many people are there?"),
    Config("patch14", dict(
        image_size=118, patch_size=14, scale_factor=4, v_dim=40, v_heads=4, v_layers=2, v_hidden_dim=76,
        dim=56, n_heads=8, n_kv_heads=2, head_dim=6, hidden_dim=90, n_layers=4, vocab_size=636,
        longest_edge=236, seed=1), [(200, 90)], "Answer with a single word.", "You are brief."),
    Config("patch16", dict(
        image_size=98, patch_size=16, scale_factor=3, v_dim=28, v_heads=2, v_layers=4, v_hidden_dim=60,
        dim=55, n_heads=5, n_kv_heads=1, head_dim=12, hidden_dim=84, n_layers=2, vocab_size=634, tie=True,
        longest_edge=98, rms_norm_eps=1e-6, style="old", seed=12), [(61, 33)], "Can you describe this image?"),
    Config("two", dict(
        image_size=42, patch_size=14, scale_factor=3, v_dim=33, v_heads=3, v_layers=1, v_hidden_dim=50,
        dim=63, n_heads=3, n_kv_heads=3, head_dim=26, hidden_dim=110, n_layers=3, vocab_size=630,
        longest_edge=126, rope_theta=10000.0, seed=2), [(40, 90), (120, 30)], "Which of the two is older?\n\tYes or no?"),
    Config("whole", dict(
        image_size=48, patch_size=8, scale_factor=3, v_dim=20, v_heads=2, v_layers=2, v_hidden_dim=37,
        dim=42, n_heads=6, n_kv_heads=2, head_dim=14, hidden_dim=77, n_layers=5, vocab_size=640,
        dtype="bfloat16", seed=1), [(97, 41)], "à bientôt, señor 日本", None, False),
    Config("idefics3", dict(
        architecture="Idefics3", image_size=64, patch_size=16, scale_factor=1, v_dim=26, v_heads=2, v_layers=2,
        v_hidden_dim=58, dim=48, n_heads=4, n_kv_heads=1, head_dim=18, hidden_dim=70, n_layers=2, vocab_size=632,
        longest_edge=128, video=False, style="old", seed=1), [(70, 100)], "Is it a dog?"),
    Config("words", dict(
        image_size=56, patch_size=14, scale_factor=2, v_dim=18, v_heads=1, v_layers=3, v_hidden_dim=54,
        dim=63, n_heads=7, n_kv_heads=1, head_dim=22, hidden_dim=66, n_layers=3, vocab_size=600, tile_tokens=False,
        longest_edge=168, tie=True, seed=5), [(30, 31)], "What is the total of the receipt?", "Be exact."),
    Config("long", dict(
        dim=32, n_heads=2, n_kv_heads=1, head_dim=16, hidden_dim=62, n_layers=2, vocab_size=620, max_positions=4096,
        rope_theta=50000.0, seed=7), [], LONG),
]

_REAL = dict(v_layers=1, n_layers=1, vocab_size=640, head_dim=64)
_BASE_EYE = dict(image_size=512, patch_size=16, scale_factor=4, v_dim=768, v_heads=12, v_hidden_dim=3072,
                 longest_edge=512, **_REAL)

REAL_SHAPES = [
    Config("256M", dict(_BASE_EYE, dim=576, n_heads=9, n_kv_heads=3, hidden_dim=1536, seed=21), [(400, 500)],
           "What is this?"),
    Config("500M", dict(_BASE_EYE, dim=960, n_heads=15, n_kv_heads=5, hidden_dim=2560, seed=22), [(500, 400)],
           "What is this?"),
    Config("2.2B", dict(image_size=384, patch_size=14, scale_factor=3, v_dim=1152, v_heads=16, v_hidden_dim=4304,
                        longest_edge=384, dim=2048, n_heads=32, n_kv_heads=32, hidden_dim=8192, rope_theta=130000.0,
                        seed=23, **_REAL), [(300, 380)], "What is this?"),
]

# The model of the C tests: small enough for the repository. Its picture, too, is a formula.
TINY = Config("tiny", dict(
    image_size=20, patch_size=5, scale_factor=2, v_dim=12, v_heads=3, v_layers=2, v_hidden_dim=28,
    dim=24, n_heads=4, n_kv_heads=2, head_dim=10, hidden_dim=34, n_layers=2, vocab_size=500, tie=True,
    max_positions=512, longest_edge=60, seed=1), [(37, 29)], "What is it?")

N_NEW = 64  # tokens of an answer


def picture(width, height):
    """(height, width, 3) bytes: waves, edges and a little noise, from integers alone."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3].astype(np.int64)
    waves = (x * x * (c + 2) + 3 * x * y + y * y * (4 - c)) // 16 % 256
    edges = ((x // 9 + y // 7 + c) % 3) * 60
    noise = (x * 7919 + y * 104729 + c * 1299709) * 2654435761 // 65536 % 32
    return ((waves * 2 + edges + noise) // 4 % 256).astype(np.uint8)
