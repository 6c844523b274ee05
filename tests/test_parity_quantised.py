"""Files of 8 and 4 bits: the engine against the reference with the same weights, dequantised by smol_file.py; and how far both
are from the weights in f32.

The engine also rounds to 8 bits what it multiplies the weights with, the reference does not, so that tensors differ by about
1 % of their norm in the whole. A wrong scale, row or block gives an error of many times that.
"""

import hashlib
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from PIL import Image, ImageOps

import tiny_model
from configs import CONFIGS, REAL_SHAPES, Config
from harness import build, call, make_files, save_pictures
from reference import Reference, stage_kind
from smol_to_folder import rebuild
from test_parity import DEMO, ask_and_load, demo_questions

LIMIT = 0.05  # of the difference's norm, relative to the tensor's
FEATURES = "model.connector"


@pytest.fixture(scope="session")
def run():
    return build()


def quantised(source, out, weights):
    call(sys.executable, "export/export.py", source, "-o", out, "--type", weights, "--quiet")
    return out


def distance(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def cosine(a, b):
    return (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("weights", ["q8", "q4"])
@pytest.mark.parametrize("name", ["base", "tiles17", "patch14", "two", "long"])
def test_config(name, weights, run, tmp_path):
    config = next(c for c in CONFIGS if c.name == name)
    source, _, pictures = make_files(config, tmp_path)
    model = quantised(source, str(tmp_path / "quantised.smol"), weights)
    answer, trace = ask_and_load(run, model, config, pictures, tmp_path)
    reference = Reference(rebuild(model, str(tmp_path / "dequantised")))
    # Two new tokens: a random model may say the image token, which the reference cannot take as an answer.
    result = reference.run(reference.inputs(config), n_new=2)
    assert answer["prompt_tokens"] == result.ids
    for stage, expected in result.stages.items():
        got = trace[stage]
        if stage_kind(stage) == "decoder":  # answers may differ, the prompt does not
            got, expected = got[:len(result.ids)], expected[:len(result.ids)]
        assert distance(got, expected) < LIMIT, stage


@pytest.mark.parametrize("weights, limit", [("q8", 0.9995), ("q4", 0.98)])
@pytest.mark.parametrize("config", REAL_SHAPES, ids=lambda c: c.name)
def test_real_encoder(config, weights, limit, run, tmp_path):
    """One layer of the published sizes: what the decoder gets to see of a picture, beside what f32 gives."""
    try:
        source = tiny_model.make_folder(str(tmp_path / "hf"), **config.model)
        model = quantised(source, str(tmp_path / "model.smol"), weights)
        _, trace = ask_and_load(run, model, config, save_pictures(config, tmp_path), tmp_path)
        reference = Reference(source)
        result = reference.run(reference.inputs(config))
        assert cosine(trace[FEATURES], result.stages[FEATURES]) > limit
    finally:
        shutil.rmtree(tmp_path)  # half a gigabyte


@pytest.mark.parametrize("weights, limit", [("q8", 0.9995), ("q4", 0.99)])
def test_demo_encoder(weights, limit, run, tmp_path):
    """The same for the demonstration model, all layers, each of its pictures."""
    source = DEMO if os.path.exists(os.path.join(DEMO, "config.json")) else rebuild(os.path.join(DEMO, "demo.smol"), str(tmp_path / "hf"))
    model, reference = quantised(source, str(tmp_path / "demo.smol"), weights), Reference(source)
    for name, question in demo_questions():
        path, config = os.path.join(DEMO, "pictures", name), Config(name, {}, [], question)
        _, trace = ask_and_load(run, model, config, [path], tmp_path)
        inputs = reference.process([ImageOps.exif_transpose(Image.open(path)).convert("RGB")], question)
        expected = reference.run(inputs).stages[FEATURES]
        assert cosine(trace[FEATURES], expected) > limit, name


@pytest.mark.parametrize("weights, kind", [("q8", 2), ("q4", 3)])
def test_a_scale_that_is_no_number_is_found(weights, kind, run, tmp_path):
    """--verify names the tensor, although its SHA-256 is right."""
    source, _, _ = make_files(CONFIGS[0], tmp_path)
    path = quantised(source, str(tmp_path / "model.smol"), weights)
    data = bytearray(open(path, "rb").read())
    directory, n_tensors = struct.unpack_from("<Q", data, 48)[0], struct.unpack_from("<I", data, 56)[0]
    entries = [directory + 160 * i for i in range(n_tensors)]
    entry = next(at for at in entries if struct.unpack_from("<I", data, at + 96)[0] == kind)
    offset, size = struct.unpack_from("<QQ", data, entry + 112)
    for half in (b"\x00\x7e", b"\x00\xfc"):  # NaN, -infinity
        data[offset:offset + 2] = half
        data[entry + 128:entry + 160] = hashlib.sha256(data[offset:offset + size]).digest()
        open(path, "wb").write(data)
        done = subprocess.run([run, path, "--verify"], capture_output=True, text=True)
        name = data[entry:entry + 96].rstrip(b"\0").decode()
        assert done.returncode == 1 and f"{name} holds NaN or infinity" in done.stderr
