"""A .smol file back to a Hugging Face folder, so that transformers can run a model of which only that file is kept.

    python tests/smol_to_folder.py models/demo/demo.smol FOLDER

Reads the file with smol_file.py, which shares nothing with exporter and engine. What the header does not hold (names of
classes, the chat template) is that of tiny_model.py; a header that says something else than tiny_model.py can write is
an error. Exporting the folder again gives the same header, tokenizer and tensors (test_parity.py).
"""

import struct
import sys

import numpy as np

import tiny_model
from smol_file import SmolFile

FIELDS = """image_size patch_size scale_factor v_dim v_heads v_layers v_hidden_dim dim n_heads n_kv_heads head_dim hidden_dim
    n_layers vocab_size max_positions rms_norm_eps rope_theta longest_edge""".split()
FIXED = {"family": 1, "template": 1, "act": 1, "v_act": 1, "resample": 1, "do_image_splitting": 1, "n_eos": 1,
         "v_eps": float(np.float32(1e-6)), "rescale_factor": 1 / 255, "image_mean": (0.5, 0.5, 0.5),
         "image_std": (0.5, 0.5, 0.5)}


def rebuild(path, folder):
    f = SmolFile(path)
    for field, value in FIXED.items():
        assert f.header[field] == value, f"{field} is {f.header[field]}, which no folder of tiny_model.py has"
    o = {**tiny_model.DEFAULTS, **{field: shortest(f.header[field]) for field in FIELDS}}
    o["tie"], o["video"] = bool(f.header["tied"]), f.header["video_max_frames"] > 0
    tokenizer = make_tokenizer(f.tokenizer)
    o["tile_tokens"] = tokenizer.token_to_id("<global-img>") is not None
    model = tiny_model.make_model(o, tokenizer)
    load(model, f.tensors, o["tie"])
    return tiny_model.write_folder(folder, o, tokenizer, model)


def shortest(x):
    """The shortest decimal number that is this f32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(x))) if isinstance(x, float) else x


def load(model, tensors, tied):
    import torch

    state = model.state_dict()
    for name, p in state.items():
        if tied and name == "lm_head.weight":
            continue
        p.copy_(torch.from_numpy(tensors[name].reshape(p.shape).copy()))
    missing = set(tensors) - set(state) - {"rope.inv_freq"}
    assert not missing, missing


def read_tokenizer(section):
    """Token bytes by id, merges as pairs of ids by rank, special tokens as (id, flags)."""
    n_tokens, n_merges, n_special = struct.unpack_from("<3I", section)
    numbers = np.frombuffer(section, "<u4", (len(section) - 32) // 4, 32)
    offsets, merges, special, _ = np.split(numbers[256:], np.cumsum([n_tokens + 1, 4 * n_merges, 2 * n_special]))
    text = section[32 + 4 * (256 + n_tokens + 1 + 4 * n_merges + 2 * n_special):]
    tokens = [text[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist())]
    merges = sorted(merges.reshape(-1, 4).tolist(), key=lambda row: row[2])
    return tokens, [row[:2] for row in merges], special.reshape(-1, 2).tolist()


def make_tokenizer(section):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, merges, special = read_tokenizer(section)
    alphabet = tiny_model.byte_alphabet()
    texts = ["".join(alphabet[b] for b in t) for t in tokens]
    for i, _ in special:
        texts[i] = tokens[i].decode()
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(texts) if t},
                                     merges=[(texts[left], texts[right]) for left, right in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    for i, flags in special:
        tokenizer.add_tokens([AddedToken(texts[i], normalized=False, special=bool(flags & 1))])
    return tokenizer


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(rebuild(sys.argv[1], sys.argv[2]))
