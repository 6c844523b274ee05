"""The engine against the reference, number by number.

Every configuration of configs.py goes through both: prompt ids and pixel values must be equal, every stage's tensor
close in all its elements, the greedy tokens equal while the reference's first choice leads by more than MARGIN. The
reference runs live; what it said when the golden files were written is compared too.
"""

import os
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps
from safetensors.numpy import load_file

import parity_golden as golden
from configs import CONFIGS, REAL_SHAPES, TINY, Config, picture
from harness import GOLDEN, ROOT, ask, build, chat, export, make_files
from reference import Reference, message, stage_kind
from smol_file import SmolFile
from smol_to_folder import rebuild

# Largest error of a stage relative to its tensor's largest magnitude. Both sides round to f32 after every operation and
# add in different orders, so each is about 1e-6 off the exact value; the decoder is deeper and its tensors less even.
LIMITS = {"vision": 1e-5, "decoder": 2e-5}
MARGIN = 1e-3  # a lead below this is a tie that rounding may decide

DEMO = os.path.join(ROOT, "models", "demo")
HEAD = ["model", "prompt", "tiles", "pixels", "stages", "worst vision", "worst decoder", "tokens", "least margin"]
ROWS = []


@pytest.fixture(scope="session")
def run():
    return build()


@pytest.fixture(scope="session", autouse=True)
def table(request):
    """Prints one line for each model when all are done, past pytest's capture."""
    yield
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print("\n")
        for row in [HEAD, ["---"] * len(HEAD)] + ROWS:
            print("| " + " | ".join(row) + " |")


def n_to_compare(expected, margins):
    """Tokens up to the first near-tie: from there on the two may answer different things, each rightly."""
    for i in range(len(expected)):
        if margins[i] <= MARGIN:
            return i
    return len(expected)


def check_stages(stages, trace, n_rows):
    """Every tensor in full, the decoder's for the first n_rows positions. Returns the worst error of each kind."""
    assert set(trace) == set(stages) | ({"pixel_values"} & set(trace))
    worst = {"vision": 0.0, "decoder": 0.0}
    for name, expected in stages.items():
        got, kind = trace[name], stage_kind(name)
        if kind == "decoder":
            expected, got = expected[:n_rows], got[:n_rows]
        assert got.shape == expected.shape, name
        assert np.isfinite(got).all(), name
        error = float(np.abs(got - expected).max() / np.abs(expected).max())
        assert error < LIMITS[kind], f"{name}: {error:.2e}"
        worst[kind] = max(worst[kind], error)
    return worst


def check_tokens(run, answer, eos_id):
    """Equal up to the first near-tie, or to the end. Returns how many were compared."""
    got = answer["tokens"] + [eos_id] * (answer["finish"] == "stop")
    n = n_to_compare(run.tokens, run.margins)
    assert got[:n] == run.tokens[:n]
    if n == len(run.tokens):
        assert got == run.tokens and answer["finish"] == ("stop" if eos_id in got else "length")
    return n


def compare(name, reference, inputs, answer, trace):
    """Everything about one question; adds a row to the table."""
    run = reference.run(inputs)
    assert answer["prompt_tokens"] == run.ids
    n_tiles = 0
    if run.pixels is not None:
        n_tiles = len(run.pixels)
        assert trace["pixel_values"].shape == run.pixels.shape
        assert (trace["pixel_values"] == run.pixels).all()
    n = check_tokens(run, answer, reference.eos_id)
    worst = check_stages(run.stages, trace, len(run.ids) + max(n - 1, 0))
    ROWS.append([name, str(len(run.ids)), str(n_tiles), "equal" if n_tiles else "none", str(len(run.stages)),
                 f"{worst['vision']:.1e}" if n_tiles else "none", f"{worst['decoder']:.1e}", f"{n} of {len(run.tokens)}",
                 f"{min(run.margins[:n], default=0):.3f}"])
    return run


def ask_and_load(run, model, config, pictures, folder):
    path = os.path.join(folder, "trace.safetensors")
    answer = ask(run, model, config, pictures, "--trace", path, "-j", 2)
    return answer, load_file(path)


@pytest.mark.parametrize("config", CONFIGS + [TINY], ids=lambda c: c.name)
def test_config(config, run, tmp_path):
    source, model, pictures = make_files(config, tmp_path)
    answer, trace = ask_and_load(run, model, config, pictures, tmp_path)
    reference = Reference(source)
    result = compare(config.name, reference, reference.inputs(config), answer, trace)
    assert golden.differences(golden.read(config.name), golden.summary(result)) == []


@pytest.mark.parametrize("name", ["base", "words"])
def test_chat(name, run, tmp_path):
    """Three questions. The engine keeps what it has computed; the reference starts anew each time."""
    config = next(c for c in CONFIGS if c.name == name)
    source, model, pictures = make_files(config, tmp_path)
    questions = ["What is written on the sign?", "Is it a dog?", "How many people are there?"]
    answers = chat(run, model, pictures, questions)
    assert len(answers) == len(questions)
    reference, messages = Reference(source), []
    images = [Image.fromarray(picture(*size)) for size in config.pictures]
    for i, (question, answer) in enumerate(zip(questions, answers)):
        messages.append(message("user", question, 0 if i else len(images)))
        result = reference.run(reference.process_messages(images, messages, {}))
        assert answer["prompt_tokens"] == result.ids
        assert (answer["timings"]["reused_tokens"] > 0) == (i > 0)
        assert check_tokens(result, answer, reference.eos_id) > 0
        messages.append(message("assistant", answer["text"].rstrip(" \n")))


@pytest.mark.parametrize("config", REAL_SHAPES, ids=lambda c: c.name)
def test_real_shape(config, run, tmp_path):
    try:
        source, model, pictures = make_files(config, tmp_path)
        answer, trace = ask_and_load(run, model, config, pictures, tmp_path)
        reference = Reference(source)
        compare(config.name + " shapes", reference, reference.inputs(config), answer, trace)
    finally:
        shutil.rmtree(tmp_path)  # half a gigabyte


def assert_same_model(a, b):
    """All that an answer depends on."""
    free = ("file_bytes", "provenance_bytes", "directory_offset", "bos_id", "pad_id", "video_max_frames", "video_size",
            "video_fps")
    assert all(a.header[field] == b.header[field] for field in a.header if field not in free)
    assert a.tokenizer == b.tokenizer and a.names == b.names
    assert all(np.array_equal(a.tensors[name], b.tensors[name]) for name in a.names)


def test_rebuild(tmp_path):
    path = os.path.join(GOLDEN, "tiny.smol")
    source = rebuild(path, str(tmp_path / "tiny"))
    assert_same_model(SmolFile(path), SmolFile(export(source, str(tmp_path / "again.smol"))))


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The demonstration model's file, and the reference of its folder, or of a folder made from the file alone."""
    path = os.path.join(DEMO, "demo.smol")
    if not os.path.exists(path):
        pytest.skip("models/demo/demo.smol is not there")
    folder, source = str(tmp_path_factory.mktemp("demo")), DEMO
    if not os.path.exists(os.path.join(DEMO, "config.json")):
        source = rebuild(path, os.path.join(folder, "demo"))
    assert_same_model(SmolFile(path), SmolFile(export(source, os.path.join(folder, "again.smol"))))
    return path, Reference(source)


def demo_questions():
    """The first question of each of its pictures."""
    path = os.path.join(DEMO, "pictures", "questions.tsv")
    if not os.path.exists(path):
        return [("none", "")]
    with open(path, encoding="utf-8") as f:
        rows = [line.rstrip("\n").split("\t") for line in f]
    return list({row[0]: row[1] for row in reversed(rows)}.items())[::-1]


@pytest.mark.parametrize("name, question", demo_questions(), ids=lambda x: x if "." in x else "")
def test_demo(name, question, demo, run, tmp_path):
    model, reference = demo
    path = os.path.join(DEMO, "pictures", name)
    config = Config("demo " + name, {}, [], question)
    answer, trace = ask_and_load(run, model, config, [path], tmp_path)
    inputs = reference.process([ImageOps.exif_transpose(Image.open(path)).convert("RGB")], question)
    compare(config.name, reference, inputs, answer, trace)
