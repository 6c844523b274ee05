#!/usr/bin/env python3
"""Hugging Face folder to .smol file.

    python export/export.py HuggingFaceTB/SmolVLM2-256M-Video-Instruct -o smolvlm2-256m.smol
    python export/export.py path/to/folder -o model.smol

Writes what FORMAT.md describes, section by section in the order of that page; keep the page beside this file when
reading. Nothing is guessed: a tensor too many, a field with an unknown value, a number that is none end the export
with one line, and no file is left behind. The same folder always gives the same bytes.
"""

import argparse
import hashlib
import json
import math
import os
import signal
import struct
import sys
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
from safetensors import SafetensorError
from tqdm import tqdm

from source import Checkpoint, ExportError, Folder, chat_template, is_smolvlm_template, sha256_of_file
from tokenizer import tokenizer_section

EXPORTER = "smol.c export 0.1"
NONE = 0xFFFFFFFF
HEADER_BYTES, ENTRY_BYTES = 512, 160
F32, F32X16 = 0, 1
PANEL = 16
PIECE = 1 << 22  # numbers converted at once

# ---- the header ----

# FORMAT.md's table, line by line: offset, type (as in struct), field, and for a field that is copied from the source,
# where it stands and what it is when it does not stand there: the default of transformers' class. The first word of
# a place is a key of read_sources(). A default of None is filled in by complete().
HEADER = [
    (0, "4s", "magic"),
    (4, "I", "version"),
    (8, "Q", "file_bytes"),
    (16, "Q", "tokenizer_offset"),
    (24, "Q", "tokenizer_bytes"),
    (32, "Q", "provenance_offset"),
    (40, "Q", "provenance_bytes"),
    (48, "Q", "directory_offset"),
    (56, "I", "n_tensors"),
    (60, "I", "weight_type"),
    (64, "I", "family"),
    (68, "I", "template"),
    # text decoder: LlamaConfig
    (72, "I", "dim", "text.hidden_size", 4096),
    (76, "I", "hidden_dim", "text.intermediate_size", 11008),
    (80, "I", "n_layers", "text.num_hidden_layers", 32),
    (84, "I", "n_heads", "text.num_attention_heads", 32),
    (88, "I", "n_kv_heads", "text.num_key_value_heads", None),
    (92, "I", "head_dim", "text.head_dim", None),
    (96, "I", "vocab_size", "text.vocab_size", 32000),
    (100, "I", "max_positions", "text.max_position_embeddings", 2048),
    (104, "f", "rms_norm_eps", "text.rms_norm_eps", 1e-6),
    (108, "f", "rope_theta"),
    (112, "I", "tied"),
    (116, "I", "act"),
    # vision encoder: SmolVLMVisionConfig, and SmolVLMConfig for the connector; Idefics3's have the same defaults
    (120, "I", "image_size", "vision.image_size", 224),
    (124, "I", "patch_size", "vision.patch_size", 32),
    (128, "I", "v_dim", "vision.hidden_size", 1152),
    (132, "I", "v_hidden_dim", "vision.intermediate_size", 3072),
    (136, "I", "v_layers", "vision.num_hidden_layers", 12),
    (140, "I", "v_heads", "vision.num_attention_heads", 16),
    (144, "f", "v_eps", "vision.layer_norm_eps", 1e-6),
    (148, "I", "v_act"),
    (152, "I", "scale_factor", "config.scale_factor", 2),
    # processor: SmolVLMImageProcessor, SmolVLMProcessor
    (156, "I", "tile_size", "image.max_image_size.longest_edge", 364),
    (160, "I", "longest_edge", "image.size.longest_edge", 4 * 364),
    (164, "I", "image_seq_len", "processor.image_seq_len", 169),
    (168, "I", "do_image_splitting", "image.do_image_splitting", True),
    (172, "I", "resample", "image.resample", 1),
    (176, "d", "rescale_factor", "image.rescale_factor", 1 / 255),
    (184, "3f", "image_mean", "image.image_mean", [0.5, 0.5, 0.5]),
    (196, "3f", "image_std", "image.image_std", [0.5, 0.5, 0.5]),
    # video
    (208, "I", "video_max_frames", "video.max_frames", 0),
    (212, "I", "video_size", "video.video_size.longest_edge", 0),
    (216, "d", "video_fps", "video.fps", 0),
    # tokens
    (224, "I", "bos_id"),
    (228, "I", "pad_id"),
    (232, "I", "image_token_id", "config.image_token_id", 128257),
    (236, "I", "n_eos"),
    (240, "4I", "eos_id"),
]

# What the engine does in one way only. A field that is not there has the class's default, which is the same value.
FIXED = [
    ("text.model_type", "llama"),
    ("text.hidden_act", "silu"),
    ("text.attention_bias", False),
    ("text.mlp_bias", False),
    ("vision.hidden_act", "gelu_pytorch_tanh"),
    ("vision.num_channels", 3),
    ("image.do_convert_rgb", True),
    ("image.do_resize", True),
    ("image.do_rescale", True),
    ("image.do_normalize", True),
    ("image.resample", 1),  # LANCZOS
]

# The engine's bounds (FORMAT.md): far above any model of this family, so that no product of sizes can overflow.
BOUNDS = {
    "dim": 1 << 16, "hidden_dim": 1 << 18, "n_layers": 512, "n_heads": 1024, "n_kv_heads": 1024, "head_dim": 1024,
    "vocab_size": 1 << 20, "max_positions": 1 << 20, "image_size": 4096, "patch_size": 256, "v_dim": 1 << 16,
    "v_hidden_dim": 1 << 18, "v_layers": 512, "v_heads": 1024, "scale_factor": 16, "tile_size": 4096,
    "longest_edge": 1 << 15, "image_seq_len": 1 << 20, "rms_norm_eps": 1, "v_eps": 1, "rescale_factor": 1,
}

ARCHITECTURES = ("SmolVLMForConditionalGeneration", "Idefics3ForConditionalGeneration")
MODEL_TYPES = ("smolvlm", "idefics3")


def require(condition, message):
    if not condition:
        raise ExportError(message)


def read_sources(folder):
    """The JSON objects that the header's fields come from."""
    config = folder.json("config.json")
    names = config.get("architectures") or []
    known = any(n in ARCHITECTURES for n in names) if names else config.get("model_type") in MODEL_TYPES
    require(known, f"config.json: architecture {names or config.get('model_type')} is not one of "
                   f"{', '.join(ARCHITECTURES)}")
    processor = folder.json("processor_config.json")
    # transformers 5 nests the image processor here; before it had a file of its own
    image = processor.get("image_processor") or folder.json("preprocessor_config.json")
    return {
        "config": config,
        "text": part(config, "text_config") or {"rms_norm_eps": 1e-5},  # SmolVLMConfig's own default differs
        "vision": part(config, "vision_config"),
        "processor": processor,
        "image": image,
        "video": video_sampling(folder, processor, image),
        "generation": folder.json("generation_config.json"),
        "tokenizer": folder.json("tokenizer_config.json", optional=True),
    }


def part(config, name):
    value = config.get(name) or {}
    require(isinstance(value, dict), f"config.json: {name} is not an object")
    return value


def video_sampling(folder, processor, image):
    """fps, max_frames and video_size. transformers 5 can leave only a video processor, which renames them and replaces
    video_size by the size of pictures, so it is asked last."""
    video = processor.get("video_processor") or folder.json("video_preprocessor_config.json", optional=True)
    if image.get("video_sampling") or video.get("video_sampling"):
        return image.get("video_sampling") or video["video_sampling"]
    if "num_frames" in video:
        return {"max_frames": video["num_frames"], "fps": video.get("fps"), "video_size": video.get("size")}
    return {}


def find(sources, place, default):
    """The value at a place such as text.hidden_size; the default where a key is absent or null."""
    value = sources
    for key in place.split("."):
        require(isinstance(value, dict), f"{place} is not in an object")
        value = value.get(key)
        if value is None:
            return default
    return value


def number(place, value, kind):
    """Checks that JSON gave the kind of number the field holds: a count, a float or three of them."""
    if kind == "3f":
        require(isinstance(value, list) and len(value) == 3, f"{place} is {value}, not three numbers")
        return [number(place, v, "f") for v in value]
    allowed = int if kind == "I" else (int, float)
    require(isinstance(value, allowed) and not isinstance(value, bool), f"{place} is {value!r}, not a number")
    require(math.isfinite(value), f"{place} is {value}")
    return value


def read_config(sources):
    """All fields of the header that describe the model, by name."""
    for place, value in FIXED:
        found = find(sources, place, value)
        require(found == value, f"{place} is {found!r}; only {value!r} is supported")
    c = SimpleNamespace(weight_type=F32, family=1, act=1, v_act=1)
    for _, kind, field, place, default in (row for row in HEADER if len(row) == 5):
        value = find(sources, place, default)
        if isinstance(default, bool):
            require(isinstance(value, bool), f"{place} is {value!r}, not true or false")
            value = int(value)
        setattr(c, field, value if value is None else number(place, value, kind))
    c.rope_theta = rope_theta(sources["text"])
    c.bos_id, c.pad_id, c.eos_id = token_ids(sources)
    complete(c)
    check(c)
    return c


def rope_theta(text):
    """The base. transformers 4 wrote rope_theta and rope_scaling, 5 writes rope_parameters."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    require(isinstance(rope, dict), "text.rope_parameters is not an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    require(kind == "default", f"text.rope_parameters: type {kind!r} is not supported, only 'default'")
    partial = rope.get("partial_rotary_factor", text.get("partial_rotary_factor"))
    require(partial in (None, 1), f"text.partial_rotary_factor {partial!r} is not supported")
    theta = rope.get("rope_theta", text.get("rope_theta"))
    theta = number("text.rope_theta", 10000.0 if theta is None else theta, "f")
    require(theta > 0, f"text.rope_theta is {theta}")
    return float(theta)


def token_ids(sources):
    """bos, pad and the list of ends. The end comes from generation_config.json, as generate() takes it."""
    generation, text = sources["generation"], sources["text"]
    eos = find(sources, "generation.eos_token_id", text.get("eos_token_id"))
    eos = eos if isinstance(eos, list) else [eos]
    require(1 <= len(eos) <= 4 and None not in eos, f"generation.eos_token_id is {eos}, not one to four tokens")
    ids = [number("generation.eos_token_id", e, "I") for e in eos]
    pad = generation.get("pad_token_id", text.get("pad_token_id"))
    bos = generation.get("bos_token_id", text.get("bos_token_id"))
    one = [NONE if i is None or i == -1 else number("generation.bos_token_id", i, "I") for i in (bos, pad)]
    return one[0], one[1], ids


def complete(c):
    """Fields whose default depends on others, as the classes fill them in."""
    if c.n_kv_heads is None:
        c.n_kv_heads = c.n_heads
    require(c.n_heads > 0, f"n_heads is {c.n_heads}")
    if c.head_dim is None:
        c.head_dim = c.dim // c.n_heads
    c.n_eos = len(c.eos_id)


def check(c):
    """What the numbers must be among themselves. The engine checks all of this again."""
    for field, high in BOUNDS.items():
        value = getattr(c, field)
        require(0 < value <= high, f"{field} is {value}, not within 1 to {high}")
    require(c.n_heads % c.n_kv_heads == 0, f"n_kv_heads {c.n_kv_heads} does not divide n_heads {c.n_heads}")
    require(c.head_dim % 2 == 0, f"head_dim {c.head_dim} is odd")
    require(c.v_dim % c.v_heads == 0, f"v_heads {c.v_heads} does not divide v_dim {c.v_dim}")
    require(c.tile_size == c.image_size, f"tile_size (max_image_size) {c.tile_size} is not image_size {c.image_size}")
    grid = c.image_size // c.patch_size
    require(grid > 0 and grid % c.scale_factor == 0 and c.image_seq_len == (grid // c.scale_factor) ** 2,
            f"image_seq_len {c.image_seq_len} does not fit image_size {c.image_size}, patch_size {c.patch_size} and "
            f"scale_factor {c.scale_factor}")
    require(all(s > 0 for s in c.image_std), f"image_std is {c.image_std}")
    optional = [i for i in (c.bos_id, c.pad_id) if i != NONE]
    for i in (c.image_token_id, *c.eos_id, *optional):
        require(0 <= i < c.vocab_size, f"token {i} is not in the vocabulary of {c.vocab_size}")


def pack_header(c):
    """The 512 bytes."""
    header = bytearray(HEADER_BYTES)
    for offset, kind, field, *_ in HEADER:
        value = getattr(c, field)
        if field == "eos_id":
            value = value + [NONE] * (4 - len(value))
        try:
            struct.pack_into("<" + kind, header, offset, *(value if isinstance(value, list) else [value]))
        except (struct.error, OverflowError):
            raise ExportError(f"{field} {value} does not fit its place in the header") from None
    return bytes(header)


# ---- the tensors ----

Tensor = namedtuple("Tensor", "name n_rows n_cols type shape")  # shape: in the checkpoint, () for one that is computed


def vector(name, n):
    return Tensor(name, 1, n, F32, (n,))


def matrix(name, n_rows, n_cols):
    return Tensor(name, n_rows, n_cols, F32X16, (n_rows, n_cols))


def tensors(c):
    """FORMAT.md's list of tensors, in its order."""
    grid, kv_dim = c.image_size // c.patch_size, c.n_kv_heads * c.head_dim
    eye = "model.vision_model."
    yield Tensor(eye + "embeddings.patch_embedding.weight", c.v_dim, 3 * c.patch_size ** 2, F32X16,
                 (c.v_dim, 3, c.patch_size, c.patch_size))
    yield vector(eye + "embeddings.patch_embedding.bias", c.v_dim)
    yield Tensor(eye + "embeddings.position_embedding.weight", grid ** 2, c.v_dim, F32, (grid ** 2, c.v_dim))
    for i in range(c.v_layers):
        layer = f"{eye}encoder.layers.{i}."
        yield from affine(layer + "layer_norm1", c.v_dim)
        for proj in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from affine(f"{layer}self_attn.{proj}", c.v_dim, c.v_dim)
        yield from affine(layer + "layer_norm2", c.v_dim)
        yield from affine(layer + "mlp.fc1", c.v_hidden_dim, c.v_dim)
        yield from affine(layer + "mlp.fc2", c.v_dim, c.v_hidden_dim)
    yield from affine(eye + "post_layernorm", c.v_dim)
    yield matrix("model.connector.modality_projection.proj.weight", c.dim, c.v_dim * c.scale_factor ** 2)
    yield matrix("model.text_model.embed_tokens.weight", c.vocab_size, c.dim)
    for i in range(c.n_layers):
        layer = f"model.text_model.layers.{i}."
        yield vector(layer + "input_layernorm.weight", c.dim)
        yield matrix(layer + "self_attn.q_proj.weight", c.n_heads * c.head_dim, c.dim)
        yield matrix(layer + "self_attn.k_proj.weight", kv_dim, c.dim)
        yield matrix(layer + "self_attn.v_proj.weight", kv_dim, c.dim)
        yield matrix(layer + "self_attn.o_proj.weight", c.dim, c.n_heads * c.head_dim)
        yield vector(layer + "post_attention_layernorm.weight", c.dim)
        yield matrix(layer + "mlp.gate_proj.weight", c.hidden_dim, c.dim)
        yield matrix(layer + "mlp.up_proj.weight", c.hidden_dim, c.dim)
        yield matrix(layer + "mlp.down_proj.weight", c.dim, c.hidden_dim)
    yield vector("model.text_model.norm.weight", c.dim)
    if not c.tied:
        yield matrix("lm_head.weight", c.vocab_size, c.dim)
    yield Tensor("rope.inv_freq", 1, c.head_dim // 2, F32, ())


def affine(name, n, n_cols=None):
    """A weight and its bias: of a LayerNorm, or of a Linear if it has columns."""
    yield matrix(name + ".weight", n, n_cols) if n_cols else vector(name + ".weight", n)
    yield vector(name + ".bias", n)


def inv_freq(theta, head_dim):
    """1 / theta^(2j / head_dim). As in LlamaRotaryEmbedding the quotient, the power and the reciprocal are rounded to
    f32 one after another; the power is taken in f64 because numpy's own f32 power is not always the nearest f32."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    power = np.float64(np.float32(theta)) ** exponent.astype(np.float64)
    return np.float32(1) / power.astype(np.float32)


def panels(x):
    """Rows (a multiple of 16 but at the end) to panels: for each column, the 16 rows side by side; zeros fill up."""
    n_rows, n_cols = x.shape
    padded = np.zeros((-(-n_rows // PANEL) * PANEL, n_cols), np.float32)
    padded[:n_rows] = x
    return padded.reshape(-1, PANEL, n_cols).transpose(0, 2, 1)


def pieces(t, c, checkpoint):
    """The tensor's data as it lies in the file, a few megabytes at a time."""
    if not t.shape:
        yield inv_freq(c.rope_theta, c.head_dim)
        return
    step = max(PIECE // t.n_cols // PANEL * PANEL, PANEL)
    for rows in checkpoint.rows(t.name, t.shape, step):
        yield panels(rows) if t.type == F32X16 else rows


def is_tied(c, sources, checkpoint):
    """Whether the output head is the embedding table. A head in the checkpoint counts unless it is the same table:
    transformers reads it so too. Without one, some configuration must say that this is meant."""
    head = "lm_head.weight"
    says = find(sources, "config.tie_word_embeddings", False)
    if head not in checkpoint.entries:
        require(says or find(sources, "text.tie_word_embeddings", False),
                f"{head} is missing, and tie_word_embeddings is not true")
        return True
    if not says:
        return False
    both = [Tensor(name, c.vocab_size, c.dim, F32, (c.vocab_size, c.dim))
            for name in (head, "model.text_model.embed_tokens.weight")]
    for t in both:
        checkpoint.check(t.name, t.shape)
    return all(np.array_equal(a, b) for a, b in zip(*(pieces(t, c, checkpoint) for t in both)))


def check_tensors(c, checkpoint):
    """Every tensor of the table is there, in its shape, and no other."""
    wanted = set()
    for t in tensors(c):
        if t.shape:
            checkpoint.check(t.name, t.shape)
        wanted.add(t.name)
    if c.tied:
        wanted.add("lm_head.weight")  # there, and equal to the table
    surplus = sorted(set(checkpoint.entries) - wanted)
    require(not surplus, f"{len(surplus)} tensors more than the configuration has: {', '.join(surplus[:3])}"
                         f"{' ...' if len(surplus) > 3 else ''}")


# ---- the file ----

def align(n):
    return -(-n // 64) * 64


def place(c, tokenizer, provenance):
    """Fills in the header's offsets and returns the tensors with their offset and size: [(tensor, offset, bytes)]."""
    c.magic, c.version = b"SMOL", 1
    c.tokenizer_offset, c.tokenizer_bytes = HEADER_BYTES, len(tokenizer)
    c.provenance_offset, c.provenance_bytes = align(HEADER_BYTES + len(tokenizer)), len(provenance)
    c.directory_offset = align(c.provenance_offset + len(provenance))
    table = list(tensors(c))
    c.n_tensors = len(table)
    placed, end = [], c.directory_offset + ENTRY_BYTES * len(table)
    for t in table:
        n_rows = -(-t.n_rows // PANEL) * PANEL if t.type == F32X16 else t.n_rows
        placed.append((t, align(end), 4 * n_rows * t.n_cols))
        end = align(end) + placed[-1][2]
    c.file_bytes = end
    return placed


def write(f, c, tokenizer, provenance, checkpoint, quiet):
    """Writes the whole file; returns the SHA-256 of its header, tokenizer, provenance and directory, the model's name
    among files. The directory comes last, for it holds the tensors' digests."""
    placed = place(c, tokenizer, provenance)
    directory = b""
    bar = tqdm(total=c.file_bytes, unit="B", unit_scale=True, desc="export", disable=True if quiet else None)
    with bar:
        for t, offset, n_bytes in placed:
            digest = hashlib.sha256()
            f.seek(offset)
            for piece in pieces(t, c, checkpoint):
                data = np.ascontiguousarray(piece, "<f4").data.cast("B")
                digest.update(data)
                f.write(data)
                bar.update(len(data))
            assert f.tell() == offset + n_bytes, t.name
            directory += struct.pack("<96sIIIIQQ32s", t.name.encode(), t.type, t.n_rows, t.n_cols, 0, offset, n_bytes,
                                     digest.digest())
    whole = hashlib.sha256()
    for offset, part in ((0, pack_header(c)), (c.tokenizer_offset, tokenizer), (c.provenance_offset, provenance),
                         (c.directory_offset, directory)):
        whole.update(part)
        f.seek(offset)
        f.write(part)
    return whole.hexdigest()


def pack_provenance(folder):
    """Where the weights came from, as JSON. No dates and no paths: the same input gives the same bytes."""
    record = {"source": folder.name, "revision": folder.revision, "exporter": EXPORTER, "license": folder.license(),
              "files": {name: sha256_of_file(folder.file(name)).hexdigest() for name in sorted(folder.used)}}
    return json.dumps(record, sort_keys=True, ensure_ascii=False, indent=1).encode() + b"\n"


def check_image_token(folder, c):
    """The prompt's placeholder <image> must be the id that the model replaces by features."""
    added = folder.json("tokenizer.json").get("added_tokens") or []
    ids = [a.get("id") for a in added if a.get("content") == "<image>"]
    require(ids == [c.image_token_id], f"tokenizer.json: <image> has id {ids}, image_token_id is {c.image_token_id}")


def export(source, out, revision=None, quiet=False):
    """Makes the file and returns (configuration, SHA-256). It takes its name only when it is complete."""
    folder = Folder(source, revision)
    require(not os.path.isdir(out), f"{out} is a folder")
    sources = read_sources(folder)
    c = read_config(sources)
    tokenizer = tokenizer_section(folder.file("tokenizer.json"), c.vocab_size)
    check_image_token(folder, c)
    c.template = int(is_smolvlm_template(chat_template(folder) or ""))
    checkpoint = Checkpoint(folder)
    c.tied = int(is_tied(c, sources, checkpoint))
    check_tensors(c, checkpoint)
    provenance = pack_provenance(folder)
    if not c.template:
        print("export: warning: the chat template is missing or not SmolVLM's; run will need --raw", file=sys.stderr)
    unfinished = f"{out}.{os.getpid()}.tmp"
    try:
        with open(unfinished, "wb") as f:
            sha256 = write(f, c, tokenizer, provenance, checkpoint, quiet)
        os.replace(unfinished, out)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
    return c, sha256


# ---- the command line ----

def report(out, c, sha256):
    grid = c.image_size // c.patch_size
    print(f"""text      {c.n_layers} layers, dim {c.dim}, hidden {c.hidden_dim}, heads {c.n_heads} / {c.n_kv_heads} x {c.head_dim}, \
vocabulary {c.vocab_size}{', tied' if c.tied else ''}, rope theta {c.rope_theta:g}, {c.max_positions} positions
vision    {c.v_layers} layers, dim {c.v_dim}, hidden {c.v_hidden_dim}, heads {c.v_heads} x {c.v_dim // c.v_heads}, \
{grid} x {grid} patches of {c.patch_size}, scale {c.scale_factor}
pictures  tiles of {c.tile_size}, longest edge {c.longest_edge}, {c.image_seq_len} tokens a tile
template  {'SmolVLM' if c.template else 'none'}
tensors   {c.n_tensors}
file      {out}, {c.file_bytes:,} bytes
sha256    {sha256} (header, tokenizer, provenance, directory)""")


def main():
    parser = argparse.ArgumentParser(description="Hugging Face folder to .smol file")
    parser.add_argument("source", metavar="SOURCE", help="folder, or name of a hub repository")
    parser.add_argument("-o", "--output", metavar="FILE", required=True)
    parser.add_argument("--type", choices=("f32", "q8", "q4"), default="f32", help="of the weight matrices (f32)")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of the repository")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a kill, too, removes the unfinished file
    try:
        require(args.type == "f32", f"--type {args.type}: not yet")
        c, sha256 = export(args.source, args.output, args.revision, args.quiet)
        if not args.quiet:
            report(args.output, c, sha256)
    except (ExportError, ValueError, OSError, SafetensorError, MemoryError) as e:
        sys.exit("export: " + (" ".join(str(e).split()) or type(e).__name__))
    except KeyboardInterrupt:
        sys.exit("export: interrupted")


if __name__ == "__main__":
    main()
