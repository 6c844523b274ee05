#!/usr/bin/env python3
"""Hugging Face folder to .smol file; also Mistral's own files, and GGUF.

    python export/export.py HuggingFaceTB/SmolVLM2-256M-Video-Instruct -o smolvlm2-256m.smol
    python export/export.py path/to/folder -o model.smol
    python export/export.py path/to/model.gguf -o model.smol --type q8
    python export/export.py path/to/folder -o model.smol --type q4 --calibrate texts/and/pictures
    python export/export.py --random path/to/folder -o model.smol --type q4

Writes what FORMAT.md describes, section by section in the order of that page; keep the page beside this file when
reading. Nothing is guessed: a tensor too many, a field with an unknown value, a number that is none end the export
with one line, and no file is left behind. The same folder always gives the same bytes.
"""

import argparse
import hashlib
import json
import os
import signal
import struct
import sys
from collections import namedtuple

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the libraries are loaded

import numpy as np
from tqdm import tqdm

import calibrate
import quantize
from header import HEADER_BYTES, find, pack_header, read_config, read_sources
from consolidated import Consolidated, is_consolidated
from gguf_file import GgufFile, is_gguf
from random_weights import RandomWeights
from smooth import Calibration, smooth, smoothed
from source import SMOLVLM, ExportError, Folder, require
from template import NAMES, find_template
from tokenizer import puts_space, tokenizer_file, tokenizer_section

EXPORTER = "smol.c export 0.1"
ENTRY_BYTES = 160
F32, F32X16, Q8, Q4 = range(4)  # types of a tensor
QUANTISED = {Q8: quantize.Q8, Q4: quantize.Q4}
WEIGHT_TYPES = {"f32": F32X16, "q8": Q8, "q4": Q4}  # of matrices; the header numbers them in this order
# These stay Q8 in a q4 file: few weights, and an error in them spoils every token or the whole picture.
EIGHT_BITS = ("embed_tokens.weight", "lm_head.weight", "patch_embedding.weight", "modality_projection.proj.weight")
LARGEST = 1e6  # of a weight that can be quantised, for the scale must be an f16
PANEL = 16  # rows
PIECE = 1 << 22  # numbers converted at once: 16 MB

# ---- the tensors ----

Tensor = namedtuple("Tensor", "name n_rows n_cols type shape")  # shape: in the checkpoint, () for one that is computed


def vector(name, n):
    return Tensor(name, 1, n, F32, (n,))


def matrix(name, n_rows, n_cols):
    return Tensor(name, n_rows, n_cols, F32X16, (n_rows, n_cols))


def decoder(c):
    """The prefix of the decoder's tensors."""
    return "model.text_model." if c.family == SMOLVLM else "model."


def tensors(c):
    """FORMAT.md's list of tensors, in its order, each of the type that it has in the file."""
    wanted = list(WEIGHT_TYPES.values())[c.weight_type]
    for t in table(c):
        if t.type == F32X16:
            t = t._replace(type=Q8 if wanted == Q4 and t.name.endswith(EIGHT_BITS) else wanted)
        yield t


def table(c):
    if c.family == SMOLVLM:
        yield from vision_tensors(c)
    kv_dim = c.n_kv_heads * c.head_dim
    yield matrix(decoder(c) + "embed_tokens.weight", c.vocab_size, c.dim)
    for i in range(c.n_layers):
        layer = f"{decoder(c)}layers.{i}."
        yield vector(layer + "input_layernorm.weight", c.dim)
        yield matrix(layer + "self_attn.q_proj.weight", c.n_heads * c.head_dim, c.dim)
        yield matrix(layer + "self_attn.k_proj.weight", kv_dim, c.dim)
        yield matrix(layer + "self_attn.v_proj.weight", kv_dim, c.dim)
        yield matrix(layer + "self_attn.o_proj.weight", c.dim, c.n_heads * c.head_dim)
        yield vector(layer + "post_attention_layernorm.weight", c.dim)
        yield matrix(layer + "mlp.gate_proj.weight", c.hidden_dim, c.dim)
        yield matrix(layer + "mlp.up_proj.weight", c.hidden_dim, c.dim)
        yield matrix(layer + "mlp.down_proj.weight", c.dim, c.hidden_dim)
    yield vector(decoder(c) + "norm.weight", c.dim)
    if not c.tied:
        yield matrix("lm_head.weight", c.vocab_size, c.dim)
    yield Tensor("rope.inv_freq", 1, c.head_dim // 2, F32, ())


def vision_tensors(c):
    grid = c.image_size // c.patch_size
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


def pieces(t, c, checkpoint, calibration):
    """The tensor's data as it lies in the file, a few megabytes at a time."""
    if not t.shape:
        yield inv_freq(c.rope_theta, c.head_dim)
        return
    step = max(PIECE // t.n_cols // PANEL * PANEL, PANEL)
    if t.type in QUANTISED and isinstance(checkpoint, RandomWeights):
        yield from checkpoint.panels(t, step, QUANTISED[t.type])
        return
    known, first = what_is_known(t, c, calibration.moments) if t.type in QUANTISED else {}, 0
    for rows in checkpoint.rows(t.name, t.shape, step):
        rows = smoothed(rows, t.name, first, t.n_rows == 1, calibration)
        first += len(rows)
        if t.type in QUANTISED:
            require(np.abs(rows).max() < LARGEST, f"{t.name} holds numbers above {LARGEST:g}, too large for 16-bit scales")
            yield quantize.quantize(rows, QUANTISED[t.type], **known)
        else:
            yield panels(rows) if t.type == F32X16 else rows


def what_is_known(t, c, moments):
    """Of a matrix' inputs, in the words of quantize()."""
    is_head = c.tied and t.name.endswith("embed_tokens.weight")
    found = moments.get("lm_head.weight" if is_head else t.name)
    if found is None:
        return {}
    if found.sum.ndim == 1:
        return {"importance": found.sum / found.sum.mean()}
    return {"spread": quantize.inverse_root(found.sum / found.n)}


def n_bytes(t):
    if t.type in QUANTISED:
        return quantize.size(QUANTISED[t.type], t.n_rows, t.n_cols)
    return 4 * t.n_cols * (align(t.n_rows, PANEL) if t.type == F32X16 else t.n_rows)


def says_tied(sources):
    return any(find(sources, place + ".tie_word_embeddings", False) for place in ("config", "text"))


def is_tied(c, sources, checkpoint):
    """Whether the output head is the embedding table. A head in the checkpoint counts unless it is the same table:
    transformers reads it so too. Without one, some configuration must say that this is meant."""
    head = "lm_head.weight"
    says = find(sources, "config.tie_word_embeddings", False)
    if head not in checkpoint.entries:
        require(says_tied(sources), f"{head} is missing, and tie_word_embeddings is not true")
        return True
    if not says:
        return False
    both = [Tensor(name, c.vocab_size, c.dim, F32, (c.vocab_size, c.dim))
            for name in (head, decoder(c) + "embed_tokens.weight")]
    for t in both:
        checkpoint.check(t.name, t.shape)
    return all(np.array_equal(a, b) for a, b in zip(*(pieces(t, c, checkpoint, Calibration()) for t in both)))


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

def align(n, unit=64):
    return -(-n // unit) * unit


def place(c, tokenizer, provenance):
    """Fills in the header's offsets and returns the tensors' places: [(tensor, offset, bytes)]."""
    c.magic, c.version = b"SMOL", 1
    c.tokenizer_offset, c.tokenizer_bytes = HEADER_BYTES, len(tokenizer)
    c.provenance_offset, c.provenance_bytes = align(HEADER_BYTES + len(tokenizer)), len(provenance)
    c.directory_offset = align(c.provenance_offset + len(provenance))
    c.n_tensors = len(list(tensors(c)))
    placed, end = [], c.directory_offset + ENTRY_BYTES * c.n_tensors
    for t in tensors(c):
        placed.append((t, align(end), n_bytes(t)))
        end = align(end) + n_bytes(t)
    c.file_bytes = end
    return placed


def write_tensor(f, place, c, checkpoint, calibration, bar):
    """Writes one tensor's data; returns its entry in the directory."""
    t, offset, size = place
    digest = hashlib.sha256()
    f.seek(offset)  # what is skipped reads as zeros
    for piece in pieces(t, c, checkpoint, calibration):
        data = np.ascontiguousarray(piece, "u1" if piece.dtype == np.uint8 else "<f4").data.cast("B")
        digest.update(data)
        f.write(data)
        bar.update(len(data))
    assert f.tell() == offset + size, t.name
    return struct.pack("<96sIIIIQQ32s", t.name.encode(), t.type, t.n_rows, t.n_cols, 0, offset, size, digest.digest())


def pack_provenance(folder, seen, bar):
    """Where the weights came from, as JSON. No dates and no paths: the same input gives the same bytes."""
    record = {"source": folder.name, "revision": folder.revision, "exporter": EXPORTER, "license": folder.license()}
    record["files"] = {name: sha256_of_file(folder.file(name), bar) for name in sorted(folder.used)}
    if seen:
        record["calibration"] = {os.path.basename(path): sha256_of_file(path, bar) for path in seen}
    return json.dumps(record, sort_keys=True, ensure_ascii=False, indent=1).encode() + b"\n"


def sha256_of_file(path, bar):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def progress(what, n_bytes, quiet):
    """A bar on stderr, where that is a terminal."""
    return tqdm(desc=what, total=n_bytes, unit="B", unit_scale=True, disable=True if quiet else None)


def check_image_token(folder, c):
    """The prompt's placeholder <image> must be the id that the model replaces by features."""
    added = folder.json("tokenizer.json").get("added_tokens") or []
    ids = [a.get("id") for a in added if a.get("content") == "<image>"]
    require(ids == [c.image_token_id], f"tokenizer.json: <image> has id {ids}, image_token_id is {c.image_token_id}")


def open_source(source, revision):
    """Where configuration, tokenizer and tensors come from, always under Hugging Face's names."""
    if is_gguf(source):
        return GgufFile(source)
    folder = Folder(source, revision)
    return Consolidated(source, revision) if is_consolidated(folder) else folder


def find_weights(folder, c, sources):
    """The checkpoint, which has every tensor of the table and no other."""
    checkpoint = folder.checkpoint(c)
    c.tied = int(is_tied(c, sources, checkpoint))
    check_tensors(c, checkpoint)
    return checkpoint


def invent_weights(folder, c, sources, seed):
    folder.name += f" (random weights, seed {seed})"
    c.tied = int(says_tied(sources))
    return RandomWeights(seed)


def export(source, out, weights="f32", revision=None, material=None, seed=None, quiet=False):
    """Makes the file; returns the configuration and the SHA-256 by which the model is known (FORMAT.md). The file
    takes its name only when it is complete. material: to calibrate with. With a seed the weights are random."""
    folder = open_source(source, revision)
    require(not os.path.isdir(out), f"{out} is a folder")
    parent = os.path.dirname(out) or "."
    require(os.path.isdir(parent), f"{out}: there is no folder {parent}")
    require(os.access(parent, os.W_OK), f"{out}: the folder {parent} cannot be written to")
    sources = read_sources(folder)
    c = read_config(sources)
    tokenizer = tokenizer_section(tokenizer_file(folder), c.vocab_size)
    if c.family == SMOLVLM:
        check_image_token(folder, c)
    c.template, warning = find_template(folder, puts_space(tokenizer))
    c.weight_type = list(WEIGHT_TYPES).index(weights)
    checkpoint = find_weights(folder, c, sources) if seed is None else invent_weights(folder, c, sources, seed)
    seen = calibrate.files(material, c.family == SMOLVLM) if material else []
    with progress("check", sum(os.path.getsize(folder.file(name)) for name in folder.used), quiet) as bar:
        provenance = pack_provenance(folder, seen, bar)
    moments = calibrate.calibrate(folder.path, c, material, quiet) if material else {}
    calibration = Calibration(moments) if weights == "q4" else smooth(c, decoder(c), moments)
    if warning:
        print(f"export: warning: {warning}", file=sys.stderr)
    placed = place(c, tokenizer, provenance)
    sections = [(0, pack_header(c)), (c.tokenizer_offset, tokenizer), (c.provenance_offset, provenance)]
    unfinished = f"{out}.{os.getpid()}.tmp"
    try:
        with open(unfinished, "wb") as f, progress("export", c.file_bytes, quiet) as bar:
            directory = b"".join(write_tensor(f, p, c, checkpoint, calibration, bar) for p in placed)
            sections.append((c.directory_offset, directory))  # last, for it holds the tensors' digests
            for offset, section in sections:
                f.seek(offset)
                f.write(section)
        os.replace(unfinished, out)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
    return c, hashlib.sha256(b"".join(section for _, section in sections)).hexdigest()


# ---- the command line ----

def report(out, c, sha256):
    print(f"text      {c.n_layers} layers, dim {c.dim}, hidden {c.hidden_dim}, heads {c.n_heads} / {c.n_kv_heads} of "
          f"{c.head_dim}, vocabulary {c.vocab_size}{', tied' if c.tied else ''}, rope theta {c.rope_theta:g}")
    if c.family == SMOLVLM:
        report_pictures(c)
    print(f"chat      {NAMES[c.template]}, context up to {c.max_positions}")
    print(f"file      {out}, {c.n_tensors} tensors, {c.file_bytes:,} bytes")
    print(f"sha256    {sha256}")


def report_pictures(c):
    grid = c.image_size // c.patch_size
    print(f"vision    {c.v_layers} layers, dim {c.v_dim}, hidden {c.v_hidden_dim}, heads {c.v_heads} of "
          f"{c.v_dim // c.v_heads}, {grid} x {grid} patches of {c.patch_size}, scale {c.scale_factor}")
    print(f"pictures  tiles of {c.tile_size}, longest edge {c.longest_edge}, {c.image_seq_len} tokens a tile")


def interrupt(number, frame):
    """The first Ctrl-C or kill removes the unfinished file; no second one disturbs that."""
    handle_interrupts(signal.SIG_IGN)
    raise KeyboardInterrupt


def handle_interrupts(handler):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def main(args=None):
    parser = argparse.ArgumentParser(description="Hugging Face folder, Mistral's own files or GGUF to .smol file")
    parser.add_argument("source", metavar="SOURCE", help="folder, GGUF file, or name of a hub repository")
    parser.add_argument("-o", "--output", metavar="FILE", required=True)
    parser.add_argument("--type", choices=("f32", "q8", "q4"), default="f32", help="of the weight matrices (f32)")
    parser.add_argument("--calibrate", metavar="PATH", help="texts (.txt) and pictures, a file or a folder, whose effect on "
                        "the model decides which errors of q8 and q4 matter; needs torch and transformers")
    parser.add_argument("--random", action="store_true", help="random weights, for benchmarks: SOURCE needs none")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random weights (1)")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of the repository")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    args = parser.parse_args(args)
    handle_interrupts(interrupt)
    try:
        require(not args.calibrate or args.type != "f32" and not args.random, "--calibrate is for the weights of q8 and q4")
        c, sha256 = export(args.source, args.output, args.type, args.revision, args.calibrate,
                           args.seed if args.random else None, args.quiet)
        if not args.quiet:
            report(args.output, c, sha256)
        return 0
    except (ExportError, ValueError, OSError) as e:
        message = str(e)
    except Exception as e:  # also what a JSON file of an unforeseen shape brings about
        message = f"{type(e).__name__}: {e}"
    except KeyboardInterrupt:
        message = "interrupted"
    print("export:", " ".join(message.split()), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
