"""The engine against the reference, number by number.

Every configuration of configs.py goes through both: prompt ids and pixel values must be equal, every stage's tensor
close in all its elements, the greedy tokens equal while the reference's first choice leads by more than MARGIN. The
reference runs live; what it said when the golden files were written is compared too.
"""

import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import parity_golden as golden
from configs import CONFIGS, N_NEW, REAL_SHAPES, TINY, Config
from harness import GOLDEN, ROOT, ask, build, make_files
from reference import Reference, stage_kind

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


def check_tokens(run, answer, eos):
    """Equal up to the first near-tie or the end of the answer. Returns how many were compared."""
    expected = run.tokens
    if eos in expected:
        expected = expected[:expected.index(eos)]
    n = n_to_compare(expected, run.margins)
    assert answer["tokens"][:n] == expected[:n]
    if n == len(expected):
        assert answer["finish"] == ("stop" if len(expected) < len(run.tokens) else "length")
        assert len(answer["tokens"]) == len(expected)
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
    n = check_tokens(run, answer, reference.model.generation_config.eos_token_id)
    worst = check_stages(run.stages, trace, len(run.ids) + max(n - 1, 0))
    ROWS.append([name, str(len(run.ids)), str(n_tiles), "equal" if n_tiles else "none", str(len(run.stages)),
                 f"{worst['vision']:.1e}" if n_tiles else "none", f"{worst['decoder']:.1e}", f"{n} of {len(run.tokens)}",
                 f"{min(run.margins[:n], default=0):.3f}"])
    return run


def ask_and_load(run, model, config, pictures, folder):
    path = os.path.join(folder, config.name + ".trace")
    answer = ask(run, model, config, pictures, "--trace", path, "-j", 2)
    return answer, load_file(path)


@pytest.mark.parametrize("config", CONFIGS + [TINY], ids=lambda c: c.name)
def test_tiny(config, run, tmp_path):
    source, model, pictures = make_files(config, tmp_path)
    answer, trace = ask_and_load(run, model, config, pictures, tmp_path)
    reference = Reference(source)
    result = compare(config.name, reference, reference.inputs(config), answer, trace)
    assert golden.differences(golden.read(config.name), golden.summary(result)) == []


@pytest.mark.parametrize("config", REAL_SHAPES, ids=lambda c: c.name)
def test_real_shape(config, run, tmp_path):
    try:
        source, model, pictures = make_files(config, tmp_path)
        answer, trace = ask_and_load(run, model, config, pictures, tmp_path)
        reference = Reference(source)
        compare(config.name + " shapes", reference, reference.inputs(config), answer, trace)
    finally:
        shutil.rmtree(tmp_path)  # half a gigabyte
