"""Reads a .smol file, written from FORMAT.md alone: nothing here is shared with the exporter or the engine.

The header's table is taken from that page itself, so a field that moves on the page and not in the exporter shows.
"""

import hashlib
import json
import os
import re
import struct

import numpy as np

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "FORMAT.md")
TYPES = {"4 bytes": "4s", "u32": "I", "u64": "Q", "f32": "f", "f64": "d", "f32 x 3": "3f", "u32 x 4": "4I"}
F32, F32X16, Q8, Q4 = 0, 1, 2, 3
NONE = 0xFFFFFFFF


def header_table():
    """[(offset, struct type, field)] as FORMAT.md lists them."""
    with open(PAGE, encoding="utf-8") as f:
        section = f.read().split("## Header")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| (\w+) \|", section, re.MULTILINE)
    return [(int(offset), TYPES[kind], name) for offset, kind, name in rows]


class SmolFile:
    """header: field to value. tensors: name to array of n_rows x n_cols. provenance: the JSON object."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.bytes = f.read()
        self.header, end = {}, 0
        for offset, kind, name in header_table():
            assert offset == end or offset % 8 == 0 and offset - end < 8, f"{name}: a gap in the table"
            value = struct.unpack_from("<" + kind, self.bytes, offset)
            self.header[name] = value if len(value) > 1 else value[0]
            end = offset + struct.calcsize("<" + kind)
        assert not any(self.bytes[end:512])
        h = self.header
        assert h["magic"] == b"SMOL" and h["version"] == 1 and h["file_bytes"] == len(self.bytes)
        self.tokenizer = self.section("tokenizer")
        self.provenance = json.loads(self.section("provenance").decode())
        self.check_order()
        self.names, self.types, self.tensors = [], {}, {}
        end = h["directory_offset"] + 160 * h["n_tensors"]
        for i in range(h["n_tensors"]):
            end = self.read_tensor(h["directory_offset"] + 160 * i, end)
        assert end == len(self.bytes), "the file ends with its last tensor"

    def section(self, name):
        start = self.header[name + "_offset"]
        return self.bytes[start:start + self.header[name + "_bytes"]]

    def check_order(self):
        """Header, tokenizer, provenance, directory: each at the next multiple of 64, zeros between."""
        h, end = self.header, 512
        for name in ("tokenizer", "provenance"):
            end = self.gap(end, h[name + "_offset"]) + h[name + "_bytes"]
        self.gap(end, h["directory_offset"])

    def gap(self, end, start):
        assert start == (end + 63) // 64 * 64 and not any(self.bytes[end:start])
        return start

    def read_tensor(self, entry, end):
        name, kind, n_rows, n_cols, zero, offset, size, digest = struct.unpack_from("<96sIIIIQQ32s", self.bytes, entry)
        name = name.rstrip(b"\0").decode()
        data = self.bytes[self.gap(end, offset):offset + size]
        assert zero == 0 and hashlib.sha256(data).digest() == digest, name
        if kind in (Q8, Q4):
            x = dequantised(kind, data, n_rows, n_cols)
            assert n_cols and x.shape == (n_rows, n_cols)
        elif kind == F32X16:
            x = np.frombuffer(data, "<f4")
            r, c = np.arange(n_rows)[:, None], np.arange(n_cols)[None, :]
            n_panels = -(-n_rows // 16)
            assert size == n_panels * n_cols * 64, name
            padded = np.arange(n_rows, n_panels * 16)[:, None]
            assert not x[(padded // 16 * n_cols + c) * 16 + padded % 16].any(), f"{name}: padding"
            x = x[(r // 16 * n_cols + c) * 16 + r % 16]
        else:
            assert kind == F32 and size == 4 * n_rows * n_cols, name
            x = np.frombuffer(data, "<f4").reshape(n_rows, n_cols)
        assert name not in self.tensors
        self.names.append(name)
        self.types[name], self.tensors[name] = kind, x
        return offset + size

    def sha256(self):
        """The one digest by which a model is known."""
        start = self.header["directory_offset"]
        directory = self.bytes[start:start + 160 * self.header["n_tensors"]]
        return hashlib.sha256(self.bytes[:512] + self.tokenizer + self.section("provenance") + directory).hexdigest()


def levels():
    """Q4's 16 levels, from the page."""
    with open(PAGE, encoding="utf-8") as f:
        line = re.search(r"^ +((-?\d+ +){15}-?\d+)$", f.read(), re.MULTILINE)
    return np.array(line[1].split(), np.float32)


def dequantised(kind, data, n_rows, n_cols):
    """A matrix of Q8 or Q4. What pads it must be what the page says."""
    block, bytes_of_block = {Q8: (64, 1024), Q4: (32, 256)}[kind]
    n_panels, n_blocks = -(-n_rows // 16), -(-n_cols // block)
    scale_bytes = (32 * n_blocks + 63) // 64 * 64
    panels = np.frombuffer(data, np.uint8).reshape(n_panels, scale_bytes + bytes_of_block * n_blocks)
    scales = panels[:, :scale_bytes].copy().view("<f2").astype(np.float32)
    quants = panels[:, scale_bytes:]
    assert not scales[:, 16 * n_blocks:].any() and np.isfinite(scales).all()
    r, c = np.arange(16 * n_panels)[:, None], np.arange(block * n_blocks)[None, :]
    scale = scales[r // 16, c // block * 16 + r % 16]
    if kind == Q8:
        q = quants[r // 16, (c // 4 * 16 + r % 16) * 4 + c % 4]
        level, empty = q.astype(np.float32) - 128, 128
        assert q.min() > 0
    else:
        q = quants[r // 16, (c // 8 * 16 + r % 16) * 4 + c % 4]
        q = np.where(c % 8 < 4, q & 15, q >> 4)
        level, empty = levels()[q], 0
    assert not scale[n_rows:].any() and (q[(scale == 0) | (r >= n_rows) | (c >= n_cols)] == empty).all()
    return (scale * level)[:n_rows, :n_cols]
